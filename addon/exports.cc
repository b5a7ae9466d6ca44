// The thread's tables as JavaScript sees them: typed arrays over one ArrayBuffer, made when the addon is loaded.
#include "exports.h"

#include <node_version.h>

#include <new>

#include "backing_store.h"
#include "memory.h"
#include "watch.h"

namespace tubetti {

namespace {

template <typename Array>
void Column(Napi::Object to, const char* name, Napi::ArrayBuffer memory, size_t offset, size_t length) {
  to.Set(name, Array::New(to.Env(), length, memory, offset));
}

#define TUBETTI_INTS(to, name, field) \
  Column<Napi::Int32Array>(to, name, memory, offsetof(Tables, field), sizeof(Tables::field) / sizeof(int32_t))
#define TUBETTI_DOUBLES(to, name, field) \
  Column<Napi::Float64Array>(to, name, memory, offsetof(Tables, field), sizeof(Tables::field) / sizeof(double))

void ExportTables(Napi::Object exports, Napi::ArrayBuffer memory) {
  Napi::Object rows = Napi::Object::New(exports.Env());
  TUBETTI_INTS(rows, "region", row_region);
  TUBETTI_DOUBLES(rows, "offset", row_offset);
  TUBETTI_INTS(rows, "length", row_length);
  rows.Set("capacity", kRows);
  exports.Set("rows", rows);
  exports.Set("addrs", Napi::DataView::New(exports.Env(), memory, offsetof(Tables, addrs), sizeof(Tables::addrs)));
  TUBETTI_INTS(exports, "msgRow", msg_row);
  TUBETTI_INTS(exports, "msgRows", msg_rows);
  TUBETTI_INTS(exports, "msgLen", msg_len);
  TUBETTI_INTS(exports, "msgPeer", msg_peer);
  TUBETTI_INTS(exports, "msgLocal", msg_local);
  TUBETTI_INTS(exports, "msgTtl", msg_ttl);
  TUBETTI_INTS(exports, "msgTos", msg_tos);
  TUBETTI_INTS(exports, "msgSegment", msg_segment);
  TUBETTI_INTS(exports, "sockErrOut", sock_err);
  TUBETTI_INTS(exports, "epollOut", epoll_out);
  TUBETTI_DOUBLES(exports, "tcpInfoOut", tcp_info);
  TUBETTI_DOUBLES(exports, "memInfoOut", mem_info);
}

// `new DataView(buffer)`: Node-API makes DataViews of ArrayBuffers only, not of shared ones.
bool ExportScratch(Thread& thread, Napi::Object exports) {
  thread.scratch_region = AllocateRegion(kScratchSize);
  if (thread.scratch_region < 0) return false;
  const napi_value buffer = MakeSharedArrayBuffer(RegionStore(thread.scratch_region));
  const Napi::Function view = exports.Env().Global().Get("DataView").As<Napi::Function>();
  exports.Set("scratch", view.New({buffer}));
  exports.Set("scratchRegion", thread.scratch_region);
  return !exports.Env().IsExceptionPending();
}

}  // namespace

Thread* MakeThread(Napi::Env env, Napi::Object exports) {
  Thread* thread = new Thread(env);
  env.SetInstanceData(thread);  // deleted when the environment ends
  Napi::ArrayBuffer memory = Napi::ArrayBuffer::New(env, sizeof(Tables));
  thread->tables = static_cast<Tables*>(memory.Data());
  Napi::Persistent(memory).SuppressDestruct();  // held for the environment's life, whatever becomes of the exports
  ExportTables(exports, memory);
  exports.Set("abi", NODE_MODULE_VERSION);
  if (!MakePollSet(*thread) || !ExportScratch(*thread, exports)) {
    if (!env.IsExceptionPending())
      Napi::Error::New(env, "no memory for the addon's tables").ThrowAsJavaScriptException();
    return nullptr;
  }
  return thread;
}

napi_value RegionBuffer(napi_env env, napi_callback_info info) {
  napi_value argument = nullptr;
  size_t argc = 1;
  int32_t region = -1;
  napi_get_cb_info(env, info, &argc, &argument, nullptr, nullptr);
  const std::shared_ptr<void> store = From(env, argument, region) ? RegionStore(region) : nullptr;
  if (store == nullptr) {
    napi_throw_range_error(env, "ERR_OUT_OF_RANGE", "no such memory region");
    return nullptr;
  }
  return MakeSharedArrayBuffer(store);
}

void ExportRaw(Thread& thread, Napi::Object exports, const char* name, napi_callback call) {
  napi_value function = nullptr;
  if (napi_create_function(exports.Env(), name, NAPI_AUTO_LENGTH, call, &thread, &function) == napi_ok) {
    exports.Set(name, function);
  }
}

}  // namespace tubetti
