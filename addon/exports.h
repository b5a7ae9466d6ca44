// What module.cc needs to fill the exports object. See exports.cc.
#pragma once

#include <napi.h>

#include "glue.h"

namespace tubetti {

// Makes this environment's Thread with its tables and puts them into `exports`. nullptr if an exception is pending.
Thread* MakeThread(Napi::Env env, Napi::Object exports);

// regionBuffer(region): throws, and returns a buffer, so it is no plain call.
napi_value RegionBuffer(napi_env env, napi_callback_info info);

// Exports a raw Node-API callback whose data is the thread.
void ExportRaw(Thread& thread, Napi::Object exports, const char* name, napi_callback call);

template <auto F>
void Export(Thread& thread, Napi::Object exports, const char* name) {
  ExportRaw(thread, exports, name, &Glue<F>::Call);
}

}  // namespace tubetti
