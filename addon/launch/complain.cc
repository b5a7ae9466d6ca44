// The launcher's own words on standard error: text, or an object as in src/log-format.ts; with the journal's priority in
// front where it reads standard error ($JOURNAL_STREAM, systemd.exec(5)).
#include <sys/stat.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#include "launch.h"

namespace tubetti {

namespace {

bool IsJournal() {
  const char* named = getenv("JOURNAL_STREAM");
  struct stat stream;
  if (named == nullptr || fstat(STDERR_FILENO, &stream) != 0) return false;
  char own[64];
  (void)snprintf(own, sizeof(own), "%" PRIu64 ":%" PRIu64, static_cast<uint64_t>(stream.st_dev),
                 static_cast<uint64_t>(stream.st_ino));
  return strcmp(named, own) == 0;
}

// `text` for between the quotes of a JSON string. What is not ASCII, or no character, is left out of it.
void Quote(const char* text, char* out, size_t room) {
  for (; *text != '\0' && room > 2; text++) {
    const unsigned char c = static_cast<unsigned char>(*text);
    const bool escaped = c == '"' || c == '\\';
    if (escaped) *out++ = '\\';
    *out++ = c < 0x20 || c > 0x7e ? '?' : *text;
    room -= escaped ? 2 : 1;
  }
  *out = '\0';
}

}  // namespace

void Complain(bool json, const char* program, const char* message) {
  const char* priority = IsJournal() ? "<3>" : "";
  if (!json) {
    (void)fprintf(stderr, "%s%s: %s\n", priority, program, message);
    return;
  }
  timespec now = {};
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts = {};
  gmtime_r(&now.tv_sec, &parts);
  char time[32];
  (void)strftime(time, sizeof(time), "%Y-%m-%dT%H:%M:%S", &parts);
  char quoted[1024];
  Quote(message, quoted, sizeof(quoted));
  (void)fprintf(stderr, "%s{\"time\":\"%s.%03ldZ\",\"level\":\"error\",\"message\":\"%s\",\"program\":\"%s\"}\n",
                priority, time, now.tv_nsec / 1000000, quoted, program);
}

}  // namespace tubetti
