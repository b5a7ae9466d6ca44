// Landlock(7): rules on files that a process lays on itself. They bind one thread and those it makes, so each of ours takes
// them (confine.cc). They come last: a thread that has them cannot mount.
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "calls.h"

namespace tubetti {

#if defined(SYS_landlock_create_ruleset)

namespace {

// linux/landlock.h, of which older systems lack the newer half.
struct RulesetAttribute {
  uint64_t handled_access_fs;
  uint64_t handled_access_net;
  uint64_t scoped;
};

struct [[gnu::packed]] PathAttribute {
  uint64_t allowed_access;
  int32_t parent_fd;
};

constexpr uint32_t kVersion = 1;
constexpr uint32_t kErrata = 2;
constexpr int kPathBeneath = 1;

constexpr uint64_t kReadFile = 1ULL << 2;
constexpr uint64_t kReadDir = 1ULL << 3;
constexpr uint64_t kRemoveFile = 1ULL << 5;
constexpr uint64_t kScopeAbstractUnix = 1;
constexpr uint64_t kScopeSignal = 2;
// Of the errata: signals between threads of a process, of which each has rules of its own here, are let pass.
constexpr int kThreadsMaySignal = 1 << 1;

// Rights by version: 13 at first; renaming between directories; truncating; ioctls of devices.
uint64_t RightsOf(int abi) {
  if (abi >= 5) return (1ULL << 16) - 1;
  if (abi >= 3) return (1ULL << 15) - 1;
  return abi == 2 ? (1ULL << 14) - 1 : (1ULL << 13) - 1;
}

int Create(const RulesetAttribute* attribute, size_t size, uint32_t flags) {
  return static_cast<int>(syscall(SYS_landlock_create_ruleset, attribute, size, flags));
}

uint64_t ScopesOf(int abi) {
  if (abi < 6) return 0;
  const int errata = Create(nullptr, 0, kErrata);
  return errata > 0 && (errata & kThreadsMaySignal) != 0 ? kScopeAbstractUnix | kScopeSignal : kScopeAbstractUnix;
}

}  // namespace

int32_t LandlockRules(Thread&, int32_t keep_removing) {
  const int abi = Create(nullptr, 0, kVersion);
  if (abi < 0) return -errno;
  RulesetAttribute attribute = {RightsOf(abi), 0, ScopesOf(abi)};
  if (keep_removing != 0) attribute.handled_access_fs &= ~kRemoveFile;
  // As much of the structure as this kernel knows.
  const size_t size = abi >= 6 ? sizeof(attribute) : abi >= 4 ? 2 * sizeof(uint64_t) : sizeof(uint64_t);
  const int rules = Create(&attribute, size, 0);
  if (rules < 0) return -errno;
  const int root = ::open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  const PathAttribute readable = {kReadFile | kReadDir, root};
  int32_t result = rules;
  if (root < 0 || syscall(SYS_landlock_add_rule, rules, kPathBeneath, &readable, 0) != 0) {
    result = -errno;
    ::close(rules);
  }
  if (root >= 0) ::close(root);
  return result;
}

#else

int32_t LandlockRules(Thread&, int32_t) { return -ENOSYS; }

#endif

}  // namespace tubetti
