// Loaded into a test's process: SIGUSR2 takes every mapping the process may still have (vm.max_map_count), the next one
// gives them back. The heap gets a reserve first: without a mapping the kernel refuses brk(2) as well, and Node itself ends
// at the next malloc that needs a page.
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <cstddef>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSize = (1 << 18) * kPage;
constexpr int kSingles = 64;
constexpr int kHeapReserve = 16 << 20;

char* g_block = nullptr;
void* g_single[kSingles];

void* Map(size_t size, int protection) {
  return mmap(nullptr, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

void Handle(int) {
  if (g_block != nullptr) {
    munmap(g_block + kPage, kSize - 2 * kPage);
    for (void*& single : g_single) {
      if (single != nullptr) munmap(single, kPage);
      single = nullptr;
    }
    munmap(g_block, kSize);
    g_block = nullptr;
    return;
  }
  void* const block = Map(kSize, PROT_NONE);
  if (block == MAP_FAILED) return;
  g_block = static_cast<char*>(block);
  // Splitting needs two mappings at a time: what is left after it is taken one by one.
  for (size_t at = kPage; at < kSize; at += 2 * kPage) {
    if (mprotect(g_block + at, kPage, PROT_READ) != 0) break;
  }
  for (int i = 0; i < kSingles; i++) {
    void* const single = Map(kPage, i % 2 == 0 ? PROT_NONE : PROT_READ);
    if (single == MAP_FAILED) break;
    g_single[i] = single;
  }
}

__attribute__((constructor)) void Install() {
  mallopt(M_MMAP_THRESHOLD, 2 * kHeapReserve);
  mallopt(M_TOP_PAD, kHeapReserve);
  free(malloc(kHeapReserve));
  signal(SIGUSR2, Handle);
}

}  // namespace
