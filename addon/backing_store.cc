// The one file that uses V8 directly. Node-API can make external ArrayBuffers only, and those are copied, not shared,
// when posted to a worker. V8's own call is the same from Node 20 on; because of it the addon belongs to the Node ABI
// it was built for, which loadNative() checks (`abi`).
#include "backing_store.h"

#include <v8.h>

#include <cstring>

namespace tubetti {

std::shared_ptr<void> MakeBackingStore(void* data, size_t length, void (*release)(void*, size_t, void*), void* hint) {
  std::shared_ptr<v8::BackingStore> store = v8::SharedArrayBuffer::NewBackingStore(data, length, release, hint);
  return store;
}

napi_value MakeSharedArrayBuffer(const std::shared_ptr<void>& store) {
  v8::Local<v8::SharedArrayBuffer> buffer =
      v8::SharedArrayBuffer::New(v8::Isolate::GetCurrent(), std::static_pointer_cast<v8::BackingStore>(store));
  // A napi_value is a v8::Local by another name (js_native_api_v8.h).
  static_assert(sizeof(napi_value) == sizeof(buffer));
  napi_value result = nullptr;
  memcpy(&result, &buffer, sizeof(result));  // NOLINT(bugprone-sizeof-expression): the handle itself is copied
  return result;
}

// Repeats until nothing more goes; each round ends by sweeping the array buffers of the one before.
void CollectGarbage() { v8::Isolate::GetCurrent()->LowMemoryNotification(); }

}  // namespace tubetti
