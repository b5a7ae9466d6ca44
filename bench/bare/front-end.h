// The front-end's side of vhost-user: what QEMU says when it starts a network device, and no more.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bare {

class Ram;
class Ring;

class FrontEnd {
 public:
  explicit FrontEnd(const char* path);
  FrontEnd(const FrontEnd&) = delete;
  FrontEnd& operator=(const FrontEnd&) = delete;

  // Takes those of the wanted feature bits that the back-end offers. Returns them.
  uint64_t Negotiate(uint64_t wanted);
  void ShareMemory(const Ram& ram);
  void StartRing(uint32_t index, const Ram& ram, const Ring& ring);
  // Both rings, and waits until the back-end has done that.
  void Enable(uint32_t rings);
  // As a VMM that shuts down.
  void Stop(uint32_t rings);
  // Readable without a request: the back-end has ended.
  int fd() const { return fd_; }

 private:
  struct Message;
  void Send(Message& message, int with_fd = -1);
  uint64_t Ask(uint32_t request);
  void Tell(uint32_t request, uint64_t value);
  Message Receive(uint32_t request);
  // Sends with need_reply where the back-end knows that, and waits for its yes.
  void SendAndWait(Message& message, int with_fd = -1);

  int fd_;
  bool reply_ack_ = false;
  bool enable_ = false;
};

}  // namespace bare
