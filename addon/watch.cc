// Descriptors watched by the thread's libuv loop (control plane).
//
// A uv handle is closed asynchronously and must be closed before its loop is; the environment waits for that in an
// async cleanup hook. The set therefore lives until libuv has closed its last handle, which may be later than the
// Thread and its Node-API environment: nothing in the close callbacks touches either.
#include "watch.h"

#include <uv.h>

#include <vector>

#include "calls.h"

namespace tubetti {

namespace {

constexpr int32_t kIn = 1;
constexpr int32_t kOut = 4;
constexpr int32_t kHangup = 8;

struct Poll {
  uv_poll_t handle;
  PollSet* set = nullptr;
  napi_env env = nullptr;
  napi_ref callback = nullptr;
  napi_async_context context = nullptr;
  int32_t events = 0;
};

}  // namespace

class PollSet {
 public:
  std::vector<Poll*> slots;
  size_t closing = 0;
  napi_async_cleanup_hook_handle hook = nullptr;
  bool ending = false;

  // Frees the set once the environment ends and no handle is left.
  void MaybeFinish() {
    if (!ending || closing > 0) return;
    napi_remove_async_cleanup_hook(hook);
    delete this;
  }
};

namespace {

int ToUv(int32_t events) {
  return ((events & kIn) != 0 ? UV_READABLE : 0) | ((events & kOut) != 0 ? UV_WRITABLE : 0) |
         ((events & kHangup) != 0 ? UV_DISCONNECT : 0);
}

void CallBack(Poll* poll, int32_t events) {
  napi_env env = poll->env;
  napi_handle_scope scope;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  napi_value callback = nullptr;
  napi_value receiver = nullptr;
  napi_value argument = nullptr;
  napi_get_reference_value(env, poll->callback, &callback);
  napi_get_global(env, &receiver);
  napi_create_int32(env, events, &argument);
  // The callback may stop this poll: `poll` is not touched after the call.
  if (napi_make_callback(env, poll->context, receiver, callback, 1, &argument, nullptr) == napi_pending_exception) {
    napi_value error = nullptr;
    if (napi_get_and_clear_last_exception(env, &error) == napi_ok) napi_fatal_exception(env, error);
  }
  napi_close_handle_scope(env, scope);
}

void OnReady(uv_poll_t* handle, int status, int events);

int Start(Poll* poll) { return uv_poll_start(&poll->handle, ToUv(poll->events), OnReady); }

void OnReady(uv_poll_t* handle, int status, int events) {
  Poll* poll = static_cast<Poll*>(handle->data);
  if (status < 0) {
    // libuv stops a handle on EPOLLERR (a netlink socket that overflowed, a pipe without a reader). Level-triggered
    // means it fires until the caller has read the error or stopped watching, so it is started again.
    Start(poll);
    CallBack(poll, kHangup | (poll->events & kIn));
    return;
  }
  CallBack(poll, ((events & UV_READABLE) != 0 ? kIn : 0) | ((events & UV_WRITABLE) != 0 ? kOut : 0) |
                     ((events & UV_DISCONNECT) != 0 ? kHangup : 0));
}

void OnClosed(uv_handle_t* handle) {
  Poll* poll = static_cast<Poll*>(handle->data);
  PollSet* set = poll->set;
  delete poll;
  set->closing--;
  set->MaybeFinish();
}

void CloseSlot(PollSet* set, size_t slot) {
  Poll* poll = set->slots[slot];
  set->slots[slot] = nullptr;
  napi_delete_reference(poll->env, poll->callback);
  napi_async_destroy(poll->env, poll->context);
  set->closing++;
  uv_close(reinterpret_cast<uv_handle_t*>(&poll->handle), OnClosed);
}

void OnEnvironmentEnd(napi_async_cleanup_hook_handle, void* data) {
  PollSet* set = static_cast<PollSet*>(data);
  for (size_t slot = 0; slot < set->slots.size(); slot++) {
    if (set->slots[slot] != nullptr) CloseSlot(set, slot);
  }
  set->ending = true;
  set->MaybeFinish();
}

Poll* Find(Thread& thread, int32_t handle) {
  const std::vector<Poll*>& slots = thread.polls->slots;
  if (handle < 0 || static_cast<size_t>(handle) >= slots.size()) return nullptr;
  return slots[static_cast<size_t>(handle)];
}

int32_t Open(Thread& thread, int32_t fd, int32_t events, napi_value callback) {
  if ((events & ~(kIn | kOut | kHangup)) != 0) return -EINVAL;
  napi_env env = thread.env;
  PollSet* set = thread.polls;
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) return -EINVAL;
  Poll* poll = new Poll;
  if (const int error = uv_poll_init(loop, &poll->handle, fd); error < 0) {
    delete poll;
    return error;  // libuv's errors are -errno on Unix
  }
  poll->handle.data = poll;
  poll->set = set;
  poll->env = env;
  poll->events = events;
  napi_value name = nullptr;
  napi_create_string_utf8(env, "tubetti:poll", NAPI_AUTO_LENGTH, &name);
  napi_async_init(env, nullptr, name, &poll->context);
  napi_create_reference(env, callback, 1, &poll->callback);

  size_t slot = 0;
  while (slot < set->slots.size() && set->slots[slot] != nullptr) slot++;
  if (slot == set->slots.size()) set->slots.push_back(nullptr);
  set->slots[slot] = poll;
  if (events != 0) {
    if (const int error = Start(poll); error < 0) {
      CloseSlot(set, slot);
      return error;
    }
  }
  return static_cast<int32_t>(slot);
}

}  // namespace

bool MakePollSet(Thread& thread) {
  PollSet* set = new PollSet;
  if (napi_add_async_cleanup_hook(thread.env, OnEnvironmentEnd, set, &set->hook) != napi_ok) {
    delete set;
    return false;
  }
  thread.polls = set;
  return true;
}

napi_value PollStart(napi_env env, napi_callback_info info) {
  napi_value argv[3];
  size_t argc = 3;
  void* data = nullptr;
  int32_t fd = 0;
  int32_t events = 0;
  napi_valuetype type = napi_undefined;
  napi_get_cb_info(env, info, &argc, argv, nullptr, &data);
  napi_typeof(env, argv[2], &type);
  if (!From(env, argv[0], fd) || !From(env, argv[1], events) || type != napi_function) {
    napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", "pollStart(fd, events, callback)");
    return nullptr;
  }
  return To(env, Open(*static_cast<Thread*>(data), fd, events, argv[2]));
}

int32_t PollChange(Thread& thread, int32_t handle, int32_t events) {
  Poll* poll = Find(thread, handle);
  if (poll == nullptr || (events & ~(kIn | kOut | kHangup)) != 0) return -EINVAL;
  poll->events = events;
  return events == 0 ? uv_poll_stop(&poll->handle) : Start(poll);
}

int32_t PollStop(Thread& thread, int32_t handle) {
  if (Find(thread, handle) == nullptr) return -EINVAL;
  CloseSlot(thread.polls, static_cast<size_t>(handle));
  return 0;
}

}  // namespace tubetti
