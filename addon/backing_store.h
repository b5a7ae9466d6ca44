// SharedArrayBuffers over memory of our own. The only V8 API of the addon: see backing_store.cc.
#pragma once

#include <node_api.h>

#include <cstddef>
#include <memory>

namespace tubetti {

// A backing store over `length` bytes at `data`; `release(data, length, hint)` is called, on any thread, once neither
// the returned pointer nor any SharedArrayBuffer refers to it.
std::shared_ptr<void> MakeBackingStore(void* data, size_t length, void (*release)(void*, size_t, void*), void* hint);

// A new SharedArrayBuffer over the store, in the current isolate.
napi_value MakeSharedArrayBuffer(const std::shared_ptr<void>& store);

// Collects the current isolate's garbage at once and thoroughly, so that what it had of backing stores is let go of.
void CollectGarbage();

}  // namespace tubetti
