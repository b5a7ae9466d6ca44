// Every call of the addon as a plain C++ function, by file; module.cc exports them through Glue. What each means is
// written once, at the TypeScript interfaces: src/native.ts and src/stack/ports.ts.
#pragma once

#include <string>

#include "glue.h"

namespace tubetti {

// memory.cc
int32_t MapRegion(Thread&, int32_t fd, double offset, double length);
int32_t AllocRegion(Thread&, double length);
int32_t RetireRegionCall(Thread&, int32_t region);
double RegionLength(Thread&, int32_t region);
double RegionFaults(Thread&, int32_t region);
int32_t RegionCount(Thread&);
int32_t Relieve(Thread&, int32_t regions, double bytes);
int32_t MemfdCreate(Thread&, std::string name, double size, int32_t seals);
double FileSize(Thread&, int32_t fd);
int32_t Ftruncate(Thread&, int32_t fd, double size);

// sigbus.cc
int32_t FaultEvent(Thread&);

// unix_socket.cc
int32_t UnixListen(Thread&, std::string path, int32_t backlog);
int32_t ListenOn(Thread&, int32_t fd, int32_t backlog);
int32_t UnixListenerPath(Thread&, int32_t fd, Bytes out);
int32_t UnixAccept(Thread&, int32_t fd);
int32_t UnixConnect(Thread&, std::string path);
int32_t UnixDatagram(Thread&, std::string path);
int32_t UnixPair(Thread&, Ints out);
int32_t RecvFds(Thread&, int32_t fd, Bytes buf, int32_t offset, int32_t length, Ints fds);
int32_t SendFds(Thread&, int32_t fd, Bytes buf, int32_t offset, int32_t length, Ints fds, int32_t fd_count);

// event_fd.cc
int32_t EventFd(Thread&, int32_t initial);
int32_t Signal(Thread&, int32_t fd);
int32_t Notify(Thread&, int32_t fd, int32_t kind);
int32_t Drain(Thread&, int32_t fd);
int32_t SetNonBlocking(Thread&, int32_t fd);

// fd_kind.cc
int32_t FileId(Thread&, int32_t fd, Ints out);
int32_t FdKind(Thread&, int32_t fd);

// closer.cc
int32_t CloseLaterCall(Thread&, int32_t fd);
int32_t SignalLater(Thread&, int32_t fd);
int32_t CloserWait(Thread&, int32_t most_ms);
int32_t CloserLost(Thread&);
double CloserLostAt(Thread&);

// watch.cc: callbacks of their own kind
napi_value PollStart(napi_env env, napi_callback_info info);
int32_t PollChange(Thread&, int32_t handle, int32_t events);
int32_t PollStop(Thread&, int32_t handle);

// watchdog.cc
int32_t WatchdogStart(Thread&);
int32_t WatchdogRead(Thread&, Ints out);
int32_t WatchdogEnter(Thread&, int32_t id);
int32_t WatchdogMain(Thread&, double limit_ms, int32_t status);
int32_t Condemn(Thread&, int32_t id);
int32_t Strays(Thread&);
int32_t EndOnSignals(Thread&, double limit_ms);
int32_t EndWithin(Thread&, double limit_ms);
int32_t ExitNow(Thread&, int32_t status);

// epoll.cc
int32_t EpollInit(Thread&);
int32_t EpollWait(Thread&, double timeout_us);
int32_t Watch(Thread&, int32_t fd, int32_t events, int32_t key, int32_t generation);
int32_t Rewatch(Thread&, int32_t fd, int32_t events, int32_t key, int32_t generation);
int32_t Unwatch(Thread&, int32_t fd);

// socket.cc
int32_t Socket(Thread&, int32_t family, int32_t kind);
int32_t Bind(Thread&, int32_t fd, int32_t slot);
int32_t Connect(Thread&, int32_t fd, int32_t slot);
int32_t Listen(Thread&, int32_t fd, int32_t backlog);
int32_t Accept(Thread&, int32_t fd, int32_t slot);
int32_t GetSockName(Thread&, int32_t fd, int32_t slot);
int32_t SetSockOpt(Thread&, int32_t fd, int32_t level, int32_t name, int32_t value);
int32_t BindToDevice(Thread&, int32_t fd, std::string name);
int32_t Shutdown(Thread&, int32_t fd, int32_t how);
int32_t Close(Thread&, int32_t fd);
int32_t Abort(Thread&, int32_t fd);

// listen.cc
int32_t OpenPorts(Thread&, int32_t slot, int32_t flags, std::string device, int32_t backlog, Ints out);
int32_t SocketFacts(Thread&, int32_t fd, Ints out);

// socket_queues.cc
int32_t TcpInfo(Thread&, int32_t fd);
int32_t MemInfo(Thread&, int32_t fd);
int32_t OutQueue(Thread&, int32_t fd);

// socket_io.cc
int32_t Recv(Thread&, int32_t fd, int32_t row, int32_t row_count, int32_t flags);
int32_t Discard(Thread&, int32_t fd, int32_t bytes);
int32_t Send(Thread&, int32_t fd, int32_t row, int32_t row_count, int32_t flags);
int32_t RecvError(Thread&, int32_t fd, int32_t offender, int32_t dest, int32_t row, int32_t row_count);

// messages.cc
int32_t RecvMany(Thread&, int32_t fd, int32_t first, int32_t count, int32_t flags);
int32_t SendMany(Thread&, int32_t fd, int32_t first, int32_t count);

// checksum.cc
int32_t Checksum(Thread&, int32_t row, int32_t row_count, double initial);

// copy.cc
int32_t CopyRows(Thread&, int32_t from, int32_t from_count, int32_t to, int32_t to_count);

// confine.cc
int32_t Confine(Thread&, int32_t keep_ports, int32_t landlock);
int32_t SetDumpable(Thread&, int32_t on);

// landlock.cc
int32_t LandlockRules(Thread&, int32_t keep_removing);

// room.cc
int32_t EnterRoom(Thread&, std::string paths, Bytes failed);

// broker.cc
int32_t BrokerUse(Thread&, int32_t fd, int32_t may_bind);
int32_t BrokerCall(Thread&, int32_t op, double a, double b, std::string text, Bytes out);
int32_t BrokerFilter(Thread&, Ints program);
double PeerUid(Thread&, int32_t fd);

// netlink.cc
int32_t NetlinkOpen(Thread&, int32_t groups);
int32_t IfIndex(Thread&, std::string name);

// seccomp.cc
double SeccompArchitecture(Thread&);
double SeccompGate(Thread&);
int32_t SeccompTrap(Thread&);
int32_t SeccompRefused(Thread&, Ints out);
int32_t SeccompInstall(Thread&, Ints program, int32_t all_threads);

// syscall_numbers.cc
int32_t SyscallNumbers(Thread&, std::string names, Ints out);

// tap.cc
int32_t TapRead(Thread&, int32_t fd, int32_t region, double offset, double end, int32_t most, Ints lengths);
int32_t TapWrite(Thread&, int32_t fd, int32_t region, Ints offsets, Ints lengths, int32_t first, int32_t end);

// splice.cc
int32_t SpliceOpen(Thread&, int32_t id, int32_t a, int32_t b);
int32_t SpliceMove(Thread&, int32_t id, int32_t of_a, int32_t of_b, int32_t budget);
double SpliceMoved(Thread&, int32_t id, int32_t side);
int32_t SpliceClose(Thread&, int32_t id, int32_t abort);
int32_t AskSockets(Thread&, int32_t fd, int32_t family, int32_t type, int32_t count);
int32_t TakeSockets(Thread&, int32_t fd, Ints out);

// system.cc
int32_t Read(Thread&, int32_t fd, Bytes buf, int32_t offset, int32_t length);
int32_t Write(Thread&, int32_t fd, Bytes buf, int32_t offset, int32_t length);
double NowUs(Thread&);
int32_t RandomFill(Thread&, Ints out);
int32_t TrimHeap(Thread&);
double RealTimeUs(Thread&);
double RaiseFileLimit(Thread&);
double GetUid(Thread&);
int32_t MoveFd(Thread&, int32_t from, int32_t to);
int32_t DupFd(Thread&, int32_t fd);
int32_t CloseOnExec(Thread&, int32_t first);
int32_t LookupUser(Thread&, std::string name, Ints ids);
double LookupGroup(Thread&, std::string name);

}  // namespace tubetti
