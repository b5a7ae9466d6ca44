// Turns a plain C++ function `int32_t|double F(Thread&, A...)` into a Node-API callback. Raw Node-API on purpose: no
// wrapper object is made, so a call costs the crossing and nothing else. Wrong argument types throw TypeError (a bug
// of ours); everything the outside world does comes back as -errno.
#pragma once

#include <node_api.h>

#include <cerrno>
#include <string>
#include <tuple>
#include <utility>

#include "thread.h"

namespace tubetti {

// A Uint8Array argument (also Buffer).
struct Bytes {
  uint8_t* data;
  size_t length;

  // [offset, offset + length) as the caller gave them; nullptr if they leave the array.
  uint8_t* Range(int32_t offset, int32_t count) const {
    if (offset < 0 || count < 0 || static_cast<size_t>(offset) + static_cast<size_t>(count) > length) return nullptr;
    return data + offset;
  }
};

// An Int32Array argument.
struct Ints {
  int32_t* data;
  size_t length;
};

inline bool From(napi_env env, napi_value value, int32_t& out) {
  return napi_get_value_int32(env, value, &out) == napi_ok;
}

inline bool From(napi_env env, napi_value value, double& out) {
  return napi_get_value_double(env, value, &out) == napi_ok;
}

inline bool From(napi_env env, napi_value value, std::string& out) {
  size_t length = 0;
  if (napi_get_value_string_utf8(env, value, nullptr, 0, &length) != napi_ok) return false;
  out.resize(length);
  return napi_get_value_string_utf8(env, value, out.data(), length + 1, &length) == napi_ok;
}

template <typename T>
bool FromTypedArray(napi_env env, napi_value value, napi_typedarray_type want, T*& data, size_t& length) {
  bool is_array = false;
  if (napi_is_typedarray(env, value, &is_array) != napi_ok || !is_array) return false;
  napi_typedarray_type type;
  void* start = nullptr;
  if (napi_get_typedarray_info(env, value, &type, &length, &start, nullptr, nullptr) != napi_ok) return false;
  data = static_cast<T*>(start);
  return type == want;
}

inline bool From(napi_env env, napi_value value, Bytes& out) {
  return FromTypedArray(env, value, napi_uint8_array, out.data, out.length);
}

inline bool From(napi_env env, napi_value value, Ints& out) {
  return FromTypedArray(env, value, napi_int32_array, out.data, out.length);
}

inline napi_value To(napi_env env, int32_t value) {
  napi_value result = nullptr;
  napi_create_int32(env, value, &result);
  return result;
}

inline napi_value To(napi_env env, double value) {
  napi_value result = nullptr;
  napi_create_double(env, value, &result);
  return result;
}

template <auto F>
struct Glue;

template <typename... A, size_t... I>
bool FromAll([[maybe_unused]] napi_env env, [[maybe_unused]] const napi_value* argv,
             [[maybe_unused]] std::tuple<A...>& out, std::index_sequence<I...>) {
  return (From(env, argv[I], std::get<I>(out)) && ...);
}

template <typename R, typename... A, R (*F)(Thread&, A...)>
struct Glue<F> {
  static napi_value Call(napi_env env, napi_callback_info info) {
    constexpr size_t kCount = sizeof...(A);
    napi_value argv[kCount + 1];
    size_t argc = kCount;
    void* data = nullptr;
    if (napi_get_cb_info(env, info, &argc, argv, nullptr, &data) != napi_ok) return nullptr;
    std::tuple<A...> args{};
    if (!FromAll(env, argv, args, std::index_sequence_for<A...>())) {
      napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", "wrong argument type in a call of the native addon");
      return nullptr;
    }
    Thread& thread = *static_cast<Thread*>(data);
    const R result = std::apply([&](A&... arg) { return F(thread, std::move(arg)...); }, args);
    // A data plane that hung in this call and was replaced: its rings are another's. Termination waits for the next
    // place where V8 looks for it; an exception leaves the code at hand at once.
    if (thread.watched != nullptr && thread.watched->condemned.load(std::memory_order_acquire)) {
      napi_throw_error(env, "ERR_TUBETTI_REPLACED", "this data plane was replaced");
      return nullptr;
    }
    return To(env, result);
  }
};

// Repeats a system call that a signal interrupted. Returns its result or -errno.
template <typename Call>
auto Retry(Call call) -> decltype(call()) {
  for (;;) {
    const auto result = call();
    if (result >= 0) return result;
    if (errno != EINTR) return -errno;
  }
}

}  // namespace tubetti
