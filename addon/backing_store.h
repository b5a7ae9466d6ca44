// SharedArrayBuffers over memory of our own, and what else the addon has to ask V8 itself for: see backing_store.cc.
#pragma once

#include <node_api.h>

#include <cstddef>
#include <memory>

namespace tubetti {

// What the running Node lacks of what this file was compiled for, or nullptr.
const char* WhyNotHere();

// Something to make buffers of, over `length` bytes at `data`; `release(data, length, hint)` is called, on any thread, once neither
// the returned pointer nor any SharedArrayBuffer refers to it.
std::shared_ptr<void> MakeBackingStore(void* data, size_t length, void (*release)(void*, size_t, void*), void* hint);

// A new SharedArrayBuffer over the store, or nullptr if the thread is being ended.
napi_value MakeSharedArrayBuffer(napi_env env, const std::shared_ptr<void>& store);

// Collects the current isolate's garbage at once and thoroughly, so that what it had of backing stores is let go of.
void CollectGarbage();

}  // namespace tubetti
