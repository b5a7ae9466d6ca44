// The thread's tables as JavaScript sees them: typed arrays over one ArrayBuffer, made when the addon is loaded.
#include "exports.h"

#include <node_version.h>

#include <new>

#include "backing_store.h"
#include "calls.h"
#include "memory.h"
#include "watch.h"

namespace tubetti {

namespace {

// Nothing here may throw by way of node-addon-api, which aborts the process when it cannot: a worker may be ended while
// it loads the addon. What fails then is left out; no JavaScript will run that could miss it.
void Put(napi_env env, napi_value to, const char* name, napi_value value) {
  if (value != nullptr) napi_set_named_property(env, to, name, value);
}

template <napi_typedarray_type Type>
void Column(napi_env env, napi_value to, const char* name, napi_value memory, size_t offset, size_t length) {
  napi_value array = nullptr;
  napi_create_typedarray(env, Type, length, memory, offset, &array);
  Put(env, to, name, array);
}

#define TUBETTI_INTS(to, name, field)                                      \
  Column<napi_int32_array>(env, to, name, memory, offsetof(Tables, field), \
                           sizeof(Tables::field) / sizeof(int32_t))
#define TUBETTI_DOUBLES(to, name, field)                                     \
  Column<napi_float64_array>(env, to, name, memory, offsetof(Tables, field), \
                             sizeof(Tables::field) / sizeof(double))

void ExportTables(napi_env env, napi_value exports, napi_value memory) {
  napi_value rows = nullptr;
  if (napi_create_object(env, &rows) != napi_ok) return;
  TUBETTI_INTS(rows, "region", row_region);
  TUBETTI_DOUBLES(rows, "offset", row_offset);
  TUBETTI_INTS(rows, "length", row_length);
  Put(env, rows, "capacity", To(env, kRows));
  Put(env, exports, "rows", rows);
  napi_value addrs = nullptr;
  napi_create_dataview(env, sizeof(Tables::addrs), memory, offsetof(Tables, addrs), &addrs);
  Put(env, exports, "addrs", addrs);
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
  TUBETTI_DOUBLES(exports, "spliceOut", splice_out);
}

// `new DataView(buffer)`: Node-API makes DataViews of ArrayBuffers only, not of shared ones.
bool ExportScratch(Thread& thread, napi_value exports) {
  const napi_env env = thread.env;
  thread.scratch_region = AllocateRegion(kScratchSize);
  if (thread.scratch_region < 0) return false;
  const napi_value buffer = MakeSharedArrayBuffer(env, RegionStore(thread.scratch_region));
  if (buffer == nullptr) return false;
  napi_value global = nullptr;
  napi_value constructor = nullptr;
  napi_value view = nullptr;
  if (napi_get_global(env, &global) != napi_ok ||
      napi_get_named_property(env, global, "DataView", &constructor) != napi_ok ||
      napi_new_instance(env, constructor, 1, &buffer, &view) != napi_ok) {
    return false;
  }
  Put(env, exports, "scratch", view);
  Put(env, exports, "scratchRegion", To(env, thread.scratch_region));
  return true;
}

bool Fill(Thread& thread, napi_value exports) {
  const napi_env env = thread.env;
  napi_value memory = nullptr;
  void* data = nullptr;
  if (napi_create_arraybuffer(env, sizeof(Tables), &data, &memory) != napi_ok ||
      napi_create_reference(env, memory, 1, &thread.tables_held) != napi_ok) {
    return false;
  }
  thread.tables = static_cast<Tables*>(data);
  ExportTables(env, exports, memory);
  Put(env, exports, "abi", To(env, NODE_MODULE_VERSION));
  // Made before anybody counts descriptors; what failed is tried again by whoever asks for it.
  FaultEvent(thread);
  return MakePollSet(thread) && ExportScratch(thread, exports);
}

}  // namespace

Thread* MakeThread(Napi::Env env, Napi::Object exports) {
  if (const char* why = WhyNotHere(); why != nullptr) {
    napi_throw_error(env, nullptr, why);
    return nullptr;
  }
  Thread* thread = new Thread(env);
  env.SetInstanceData(thread);  // deleted when the environment ends
  if (Fill(*thread, exports)) return thread;
  napi_throw_error(env, nullptr, "no memory for the addon's tables");
  return nullptr;
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
  return MakeSharedArrayBuffer(env, store);
}

void ExportRaw(Thread& thread, Napi::Object exports, const char* name, napi_callback call) {
  napi_value function = nullptr;
  napi_create_function(exports.Env(), name, NAPI_AUTO_LENGTH, call, &thread, &function);
  Put(exports.Env(), exports, name, function);
}

}  // namespace tubetti
