// The export table.
#include <napi.h>

#include "calls.h"
#include "exports.h"

namespace tubetti {

namespace {

void ExportControlPlane(Thread& t, Napi::Object e) {
  Export<MapRegion>(t, e, "mapRegion");
  Export<AllocRegion>(t, e, "allocRegion");
  ExportRaw(t, e, "regionBuffer", RegionBuffer);
  Export<RegionLength>(t, e, "regionLength");
  Export<RetireRegionCall>(t, e, "retireRegion");
  Export<RegionFaults>(t, e, "regionFaults");
  Export<RegionCount>(t, e, "regionCount");
  Export<Relieve>(t, e, "relieve");
  Export<FaultEvent>(t, e, "faultEvent");
  Export<MemfdCreate>(t, e, "memfdCreate");
  Export<FileSize>(t, e, "fileSize");
  Export<Ftruncate>(t, e, "ftruncate");
  Export<UnixListen>(t, e, "unixListen");
  Export<ListenOn>(t, e, "listenOn");
  Export<UnixListenerPath>(t, e, "unixListenerPath");
  Export<UnixAccept>(t, e, "unixAccept");
  Export<PeerUid>(t, e, "peerUid");
  Export<UnixConnect>(t, e, "unixConnect");
  Export<UnixDatagram>(t, e, "unixDatagram");
  Export<UnixPair>(t, e, "unixPair");
  Export<RecvFds>(t, e, "recvFds");
  Export<SendFds>(t, e, "sendFds");
  Export<EventFd>(t, e, "eventFd");
  Export<Signal>(t, e, "signal");
  Export<Notify>(t, e, "notify");
  Export<Drain>(t, e, "drain");
  Export<FdKind>(t, e, "fdKind");
  Export<FileId>(t, e, "fileId");
  Export<CloseLaterCall>(t, e, "closeLater");
  Export<SignalLater>(t, e, "signalLater");
  Export<CloserWait>(t, e, "closerWait");
  Export<CloserLost>(t, e, "closerLost");
  Export<CloserLostAt>(t, e, "closerLostAt");
  Export<SetNonBlocking>(t, e, "setNonBlocking");
  ExportRaw(t, e, "pollStart", PollStart);
  Export<PollChange>(t, e, "pollChange");
  Export<PollStop>(t, e, "pollStop");
  Export<WatchdogStart>(t, e, "watchdogStart");
  Export<WatchdogRead>(t, e, "watchdogRead");
  Export<WatchdogEnter>(t, e, "watchdogEnter");
  Export<WatchdogMain>(t, e, "watchdogMain");
  Export<Condemn>(t, e, "condemn");
  Export<Strays>(t, e, "strays");
  Export<EndOnSignals>(t, e, "endOnSignals");
  Export<EndWithin>(t, e, "endWithin");
  Export<ExitNow>(t, e, "exitNow");
  Export<OpenPorts>(t, e, "openPorts");
  Export<SocketFacts>(t, e, "socketFacts");
  Export<NetlinkOpen>(t, e, "netlinkOpen");
  Export<IfIndex>(t, e, "ifIndex");
  Export<SeccompArchitecture>(t, e, "seccompArchitecture");
  Export<SeccompGate>(t, e, "seccompGate");
  Export<SeccompTrap>(t, e, "seccompTrap");
  Export<SeccompRefused>(t, e, "seccompRefused");
  Export<SeccompInstall>(t, e, "seccompInstall");
  Export<SyscallNumbers>(t, e, "syscallNumbers");
  Export<Read>(t, e, "read");
  Export<Write>(t, e, "write");
  Export<NowUs>(t, e, "nowUs");
  Export<RandomFill>(t, e, "randomFill");
  Export<TrimHeap>(t, e, "trimHeap");
  Export<RealTimeUs>(t, e, "realTimeUs");
  Export<RaiseFileLimit>(t, e, "raiseFileLimit");
  Export<GetUid>(t, e, "getuid");
  Export<Confine>(t, e, "confine");
  Export<SetDumpable>(t, e, "setDumpable");
  Export<LandlockRules>(t, e, "landlockRules");
  Export<EnterRoom>(t, e, "enterRoom");
  Export<BrokerUse>(t, e, "brokerUse");
  Export<BrokerCall>(t, e, "brokerCall");
  Export<BrokerFilter>(t, e, "brokerFilter");
  Export<MoveFd>(t, e, "moveFd");
  Export<DupFd>(t, e, "dupFd");
  Export<CloseOnExec>(t, e, "closeOnExec");
  Export<LookupUser>(t, e, "lookupUser");
  Export<LookupGroup>(t, e, "lookupGroup");
}

void ExportHostIo(Thread& t, Napi::Object e) {
  Export<EpollInit>(t, e, "epollInit");
  Export<EpollWait>(t, e, "epollWait");
  Export<Watch>(t, e, "watch");
  Export<Rewatch>(t, e, "rewatch");
  Export<Unwatch>(t, e, "unwatch");
  Export<Socket>(t, e, "socket");
  Export<Bind>(t, e, "bind");
  Export<Connect>(t, e, "connect");
  Export<Listen>(t, e, "listen");
  Export<Accept>(t, e, "accept");
  Export<GetSockName>(t, e, "getsockname");
  Export<SetSockOpt>(t, e, "setsockopt");
  Export<BindToDevice>(t, e, "bindToDevice");
  Export<Shutdown>(t, e, "shutdown");
  Export<Close>(t, e, "close");
  Export<Abort>(t, e, "abort");
  Export<TcpInfo>(t, e, "tcpInfo");
  Export<MemInfo>(t, e, "memInfo");
  Export<OutQueue>(t, e, "outq");
  Export<Recv>(t, e, "recv");
  Export<Discard>(t, e, "discard");
  Export<Send>(t, e, "send");
  Export<RecvMany>(t, e, "recvMany");
  Export<SendMany>(t, e, "sendMany");
  Export<RecvError>(t, e, "recvError");
  Export<Checksum>(t, e, "checksum");
  Export<CopyRows>(t, e, "copyRows");
  Export<TapRead>(t, e, "tapRead");
  Export<TapWrite>(t, e, "tapWrite");
  Export<SpliceOpen>(t, e, "spliceOpen");
  Export<SpliceMove>(t, e, "spliceMove");
  Export<SpliceMoved>(t, e, "spliceMoved");
  Export<SpliceClose>(t, e, "spliceClose");
  Export<AskSockets>(t, e, "askSockets");
  Export<TakeSockets>(t, e, "takeSockets");
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  Thread* thread = MakeThread(env, exports);
  if (thread == nullptr) return exports;
  ExportControlPlane(*thread, exports);
  ExportHostIo(*thread, exports);
  return exports;
}

NODE_API_MODULE(tubetti, Init)

}  // namespace

}  // namespace tubetti
