// What the launcher takes from the command line. Node reads it properly; here a word counts that might mean something:
// a descriptor too many is kept open until Node closes it, a process too many waits.
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "launch.h"

namespace tubetti {

namespace {

constexpr int kFirstPassed = 3;
constexpr int kMostPassed = 32;

// What follows `prefix` in `word`, or nullptr.
const char* Behind(const char* word, const char* prefix) {
  const size_t length = strlen(prefix);
  return strncmp(word, prefix, length) == 0 ? word + length : nullptr;
}

void Keep(Words& words, const char* number) {
  if (number == nullptr || *number < '0' || *number > '9') return;
  const long fd = strtol(number, nullptr, 10);
  if (fd < 0 || fd > 1 << 20) return;
  if (words.count == Words::kMost) words.all = true;
  else words.keep[words.count++] = static_cast<int>(fd);
}

// Whether `word` is `full` or a beginning of it that has `least` letters.
bool IsAbbreviation(const char* word, const char* full, size_t least) {
  const char* end = strchr(word, '=');
  const size_t length = end == nullptr ? strlen(word) : static_cast<size_t>(end - word);
  return length >= least && length <= strlen(full) && strncmp(word, full, length) == 0;
}

// The argument of `word`: behind its equals sign, or the next word.
const char* ArgumentOf(const char* word, const char* next) {
  const char* equals = strchr(word, '=');
  return equals == nullptr ? next : equals + 1;
}

void TakeFormat(Words& words, const char* format) {
  if (format != nullptr) words.json = strcmp(format, "json") == 0;
}

void ReadEnvironment(Words& words) {
  Keep(words, getenv("TUBETTI_FD"));
  Keep(words, getenv("TUBETTI_READY_FD"));
  TakeFormat(words, getenv("TUBETTI_LOG_FORMAT"));
  Keep(words, getenv("NODE_CHANNEL_FD"));
  if (getenv("TUBETTI_CONFIG") != nullptr) words.all = true;
}

// sd_listen_fds(3): descriptors from 3 on, for the process that LISTEN_PID names. That is this one, or they are not meant
// for us; in the background the service has another number, so it is looked at here.
void ReadListeners(Words& words) {
  const char* const pid = getenv("LISTEN_PID");
  const char* const count = getenv("LISTEN_FDS");
  if (pid == nullptr || count == nullptr || strtol(pid, nullptr, 10) != getpid()) return;
  words.listens = true;
  const long passed = strtol(count, nullptr, 10);
  // Node says so if there are more.
  for (int i = 0; i < passed && i < kMostPassed; i++) words.keep[words.count++] = kFirstPassed + i;
}

bool IsCalled(const char* name, const char* what) {
  const char* base = strrchr(name, '/');
  return strstr(base == nullptr ? name : base, what) != nullptr;
}

bool IsPasst(const char* name) { return IsCalled(name, "passt") && !IsCalled(name, "pasta"); }

}  // namespace

bool IsNamespace(const char* name, char** argv) {
  return IsCalled(name, "pasta") || (argv[0] != nullptr && strcmp(argv[0], "netns") == 0);
}

const char* CalledAs(const char* name) { return IsCalled(name, "pasta") ? "pasta" : IsPasst(name) ? "passt" : "tubetti"; }

Words ReadWords(const char* name, char** argv) {
  Words words;
  ReadListeners(words);
  ReadEnvironment(words);
  // A command stays in the foreground; where one begins only Node can tell.
  const bool pasta = argv[0] != nullptr && IsNamespace(name, argv + 1);  // behind the script
  bool background = pasta || IsPasst(name) || getenv("TUBETTI_BACKGROUND") != nullptr;
  bool foreground = false;
  bool fd = getenv("TUBETTI_FD") != nullptr;
  bool pid = getenv("TUBETTI_PID") != nullptr;
  for (char** at = argv; *at != nullptr; at++) {
    const char* word = *at;
    if (word[0] != '-') continue;
    if (word[1] != '-') {
      if (const char* named = strchr(word, 'F'); named != nullptr) {
        Keep(words, named[1] == '\0' ? at[1] : named + 1);
        fd = true;
      }
      background = background || strchr(word, 'b') != nullptr;
      foreground = foreground || strcmp(word, "-f") == 0;
      pid = pid || strchr(word, 'P') != nullptr;
      continue;
    }
    if (const char* named = Behind(word, "--fd"); named != nullptr) {
      Keep(words, *named == '=' ? named + 1 : at[1]);
      fd = true;
    }
    if (IsAbbreviation(word, "--ready-fd", 5)) Keep(words, ArgumentOf(word, at[1]));
    if (IsAbbreviation(word, "--log-format", 8)) TakeFormat(words, ArgumentOf(word, at[1]));
    if (IsAbbreviation(word, "--config", 4)) words.all = true;
    background = background || IsAbbreviation(word, "--background", 3);
    foreground = foreground || strcmp(word, "--foreground") == 0;
    pid = pid || IsAbbreviation(word, "--pid", 4);
  }
  words.background = !foreground && (background || (fd && pid));
  return words;
}

}  // namespace tubetti
