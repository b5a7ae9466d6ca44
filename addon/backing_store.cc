// SharedArrayBuffers over memory of our own, in one of two ways, chosen by the headers that the addon is built with.
//
// Node 26 (from 26.1 on) has a call of Node-API for it, an experimental one. Before, Node-API can make external ArrayBuffers
// only, and those are copied, not shared, when posted to a worker; V8's own call is the same from Node 20 to 26. Node 24.16
// has the call of Node-API too, but a binary that was built with it would not run in an older 24, which has the same ABI.
//
// Either way a buffer holds a part of its store, in whichever thread it is, and the store's memory is given back by the
// last who lets go: the region itself (memory.cc) or V8, once it has collected the last buffer.
//
// CollectGarbage() is V8's in any case; because of it the addon belongs to the Node ABI it was built for, which loadNative()
// checks (`abi`).
#include <node_version.h>
#if NODE_MAJOR_VERSION >= 26
#define NAPI_EXPERIMENTAL
#define NODE_API_EXPERIMENTAL_NO_WARNING
#endif
#include "backing_store.h"

#include <v8.h>

#include <cstring>

#ifdef NODE_API_EXPERIMENTAL_HAS_CREATE_EXTERNAL_SHAREDARRAYBUFFER
// Node 26.0 has the same ABI and no such function. Without this it would end the process where it is first called.
#pragma weak node_api_create_external_sharedarraybuffer
#endif

namespace tubetti {

#ifdef NODE_API_EXPERIMENTAL_HAS_CREATE_EXTERNAL_SHAREDARRAYBUFFER

const char* WhyNotHere() {
  return node_api_create_external_sharedarraybuffer == nullptr ? "built for Node 26.1 or newer" : nullptr;
}

namespace {

// What V8's own backing stores are in the other way. Each buffer has one of V8's, and all of those hold this one.
struct Store {
  Store(void* d, size_t l, void (*r)(void*, size_t, void*), void* h) : data(d), length(l), release(r), hint(h) {}
  ~Store() { release(data, length, hint); }
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  void* const data;
  const size_t length;
  void (*const release)(void*, size_t, void*);
  void* const hint;
};

// V8 calls this when a buffer is gone from all threads, on any of them.
void LetGo(void*, void* held) { delete static_cast<std::shared_ptr<Store>*>(held); }

}  // namespace

std::shared_ptr<void> MakeBackingStore(void* data, size_t length, void (*release)(void*, size_t, void*), void* hint) {
  return std::make_shared<Store>(data, length, release, hint);
}

napi_value MakeSharedArrayBuffer(napi_env env, const std::shared_ptr<void>& store) {
  auto* held = new std::shared_ptr<Store>(std::static_pointer_cast<Store>(store));
  napi_value result = nullptr;
  node_api_create_external_sharedarraybuffer(env, (*held)->data, (*held)->length, LetGo, held, &result);
  // There is none if the thread is being ended: then nobody else lets go.
  if (result == nullptr) delete held;
  return result;
}

#else

const char* WhyNotHere() { return nullptr; }

std::shared_ptr<void> MakeBackingStore(void* data, size_t length, void (*release)(void*, size_t, void*), void* hint) {
  std::shared_ptr<v8::BackingStore> store = v8::SharedArrayBuffer::NewBackingStore(data, length, release, hint);
  return store;
}

napi_value MakeSharedArrayBuffer(napi_env, const std::shared_ptr<void>& store) {
  v8::Local<v8::SharedArrayBuffer> buffer =
      v8::SharedArrayBuffer::New(v8::Isolate::GetCurrent(), std::static_pointer_cast<v8::BackingStore>(store));
  // A napi_value is a v8::Local by another name (js_native_api_v8.h).
  static_assert(sizeof(napi_value) == sizeof(buffer));
  napi_value result = nullptr;
  memcpy(&result, &buffer, sizeof(result));  // NOLINT(bugprone-sizeof-expression): the handle itself is copied
  return result;
}

#endif

// Repeats until nothing more goes; each round ends by sweeping the array buffers of the one before.
void CollectGarbage() { v8::Isolate::GetCurrent()->LowMemoryNotification(); }

}  // namespace tubetti
