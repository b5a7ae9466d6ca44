#include "clients.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "datagrams.h"
#include "tcp.h"

namespace bare {

namespace {

constexpr double kGiga = 1e9;
constexpr int64_t kSecond = 1'000'000'000;
// A connection gives up by itself after 10 s without progress; this is for what is no fault of TCP's.
constexpr int64_t kLong = 15 * kSecond;
constexpr int64_t kAnswer = kSecond;
// Beside bulk: until windows and shares have settled.
constexpr int64_t kSettle = kSecond / 2;
constexpr unsigned kBatch = 64;
constexpr int64_t kNap = 500'000;

using Streams = std::vector<std::unique_ptr<Connection>>;

int Complain(const char* what) {
  printf("%s\n", what);
  return 1;
}

// Of sorted nanoseconds, in microseconds.
double Percentile(const std::vector<int64_t>& times, double part) {
  return static_cast<double>(times[static_cast<size_t>(part * static_cast<double>(times.size() - 1))]) / 1e3;
}

// Verbs of bench-net's server. With --verify the source sends the pattern and the sink wants it.
const char* SourceOf(const Net& net) { return net.verify() ? "S" : "s"; }
const char* SinkOf(const Net& net) { return net.verify() ? "K" : "k"; }

// What bench-net's server is told about an exchange of datagrams, and what it tells.
struct DatagramRequest {
  uint32_t bytes;
  uint32_t rate;
  double seconds;
};

struct DatagramCount {
  uint64_t datagrams;
  int64_t first;
  int64_t last;
};

class Client {
 public:
  Client(Net& net, const Address& to, uint16_t port, double seconds)
      : net_(net), to_(to), port_(port), seconds_(static_cast<int64_t>(seconds * kGiga)) {}

  int Down(const char* verb, size_t count);
  int Up(const char* verb, size_t count);
  int RequestResponse(size_t bytes, bool loaded);
  int ConnectRequestClose();
  int DatagramsUp(uint32_t bytes, uint32_t rate);
  int DatagramsDown(uint32_t bytes, uint32_t rate);
  int DatagramRequestResponse(uint32_t bytes);

 private:
  std::unique_ptr<Connection> Connect(const char* verb);
  Streams ConnectAll(const char* verb, size_t count);
  // The error of the first that has one; null: none.
  static const char* ErrorOf(const Streams& streams);
  // Until `done()`, `timeout` at most, or until a connection fails. Null: it is done.
  template <typename Done>
  const char* Wait(const Connection& connection, Done done, int64_t timeout = kLong);
  template <typename Transaction>
  int Transactions(Transaction transaction);
  // A port of the server's for datagrams. 0: it gave none, which was said.
  uint16_t Negotiate(Connection& control, uint32_t bytes, uint32_t rate);
  int PrintBulk(uint64_t bytes, int64_t nanoseconds);
  int PrintDatagrams(uint64_t sent, uint64_t arrived, int64_t nanoseconds);
  static int PrintTransactions(std::vector<int64_t>& times, int64_t nanoseconds, const char* more);
  Net& net_;
  Address to_;
  uint16_t port_;
  int64_t seconds_;
};

std::unique_ptr<Connection> Client::Connect(const char* verb) {
  auto connection = std::make_unique<Connection>(net_, to_, port_);
  connection->Write(verb, strlen(verb));
  return connection;
}

Streams Client::ConnectAll(const char* verb, size_t count) {
  Streams streams;
  for (size_t i = 0; i < count; i++) streams.push_back(Connect(verb));
  return streams;
}

const char* Client::ErrorOf(const Streams& streams) {
  for (const auto& each : streams) {
    if (each->error() != nullptr) return each->error();
  }
  return nullptr;
}

template <typename Done>
const char* Client::Wait(const Connection& connection, Done done, int64_t timeout) {
  const bool came = net_.Until([&] { return done() || connection.error() != nullptr; }, timeout);
  if (!came) return "nothing came in time";
  return done() ? nullptr : connection.error();
}

int Client::PrintBulk(uint64_t bytes, int64_t nanoseconds) {
  printf("RESULT bulk bytes=%llu seconds=%.6f\n", static_cast<unsigned long long>(bytes),
         static_cast<double>(nanoseconds) / kGiga);
  return 0;
}

// Counts for this time, from the first byte on.
int Client::Down(const char* verb, size_t count) {
  const Streams streams = ConnectAll(verb, count);
  for (const auto& each : streams) each->StartSink();
  const auto total = [&] {
    uint64_t sum = 0;
    for (const auto& each : streams) sum += each->sunk();
    return sum;
  };
  const auto failed = [&] { return ErrorOf(streams) != nullptr; };
  if (!net_.Until([&] { return total() > 0 || failed(); }, kLong)) return Complain("no byte came");
  const uint64_t before = total();
  const int64_t started = NowNs();
  net_.Until(failed, seconds_);
  const int64_t took = NowNs() - started;
  const uint64_t bytes = total() - before;
  if (failed()) return Complain(ErrorOf(streams));
  for (const auto& each : streams) each->Reset();
  return bytes == 0 ? Complain("no byte came") : PrintBulk(bytes, took);
}

// Sends for this time, which ends when the server has said that it has everything.
int Client::Up(const char* verb, size_t count) {
  const Streams streams = ConnectAll(verb, count);
  for (const auto& each : streams) each->StartSource();
  const auto failed = [&] { return ErrorOf(streams) != nullptr; };
  const int64_t started = NowNs();
  net_.Until(failed, seconds_);
  for (const auto& each : streams) {
    each->StopSource();
    each->Shutdown();
  }
  const auto answered = [&] {
    return std::all_of(streams.begin(), streams.end(), [](const auto& each) { return each->inbox().size() >= 8; });
  };
  const bool in_time = net_.Until([&] { return answered() || failed(); }, kLong);
  const int64_t took = NowNs() - started;
  if (failed()) return Complain(ErrorOf(streams));
  if (!in_time) return Complain("the sink says nothing (with --verify: the bytes are not those that were sent)");
  uint64_t sent = 0;
  uint64_t arrived = 0;
  for (const auto& each : streams) {
    uint64_t of_this = 0;
    memcpy(&of_this, each->inbox().data(), sizeof of_this);
    arrived += of_this;
    sent += each->source_bytes();
  }
  if (arrived != sent) {
    printf("%llu bytes sent, %llu arrived\n", static_cast<unsigned long long>(sent),
            static_cast<unsigned long long>(arrived));
    return 1;
  }
  return PrintBulk(arrived, took);
}

int Client::PrintTransactions(std::vector<int64_t>& times, int64_t nanoseconds, const char* more) {
  if (times.empty()) return Complain("no answer came");
  std::sort(times.begin(), times.end());
  printf("RESULT transactions count=%zu seconds=%.6f p50=%.1f p99=%.1f%s\n", times.size(),
         static_cast<double>(nanoseconds) / kGiga, Percentile(times, 0.5), Percentile(times, 0.99), more);
  return 0;
}

// `transaction()` returns null or what went wrong.
template <typename Transaction>
int Client::Transactions(Transaction transaction) {
  std::vector<int64_t> times;
  times.reserve(1 << 20);
  const int64_t started = NowNs();
  int64_t before = started;
  while (before - started < seconds_) {
    const char* error = transaction();
    if (error != nullptr) return Complain(error);
    const int64_t after = NowNs();
    times.push_back(after - before);
    before = after;
  }
  return PrintTransactions(times, before - started, "");
}

int Client::RequestResponse(size_t bytes, bool loaded) {
  Streams bulk;
  if (loaded) {
    bulk.push_back(Connect(SourceOf(net_)));
    bulk[0]->StartSink();
    bulk.push_back(Connect(SinkOf(net_)));
    bulk[1]->StartSource();
    net_.Until([&] { return ErrorOf(bulk) != nullptr; }, kSettle);
  }
  const auto connection = Connect("e");
  const std::string message(reinterpret_cast<const char*>(net_.nic().pattern()), bytes);
  const int status = Transactions([&]() -> const char* {
    connection->Write(message.data(), bytes);
    const char* error = Wait(*connection, [&] { return connection->inbox().size() >= bytes; });
    if (error != nullptr) return error;
    if (connection->inbox() != message) return "the answer is not what was sent";
    connection->inbox().clear();
    return nullptr;
  });
  connection->Reset();
  const char* error = ErrorOf(bulk);
  for (const auto& each : bulk) each->Reset();
  return error == nullptr ? status : Complain(error);
}

int Client::ConnectRequestClose() {
  // The last connection stays until the next is over, so that its FIN is sent again if it has to be.
  std::unique_ptr<Connection> last;
  return Transactions([&]() -> const char* {
    auto connection = Connect("c");
    const char* error = Wait(*connection, [&] { return connection->ended(); });
    if (error != nullptr) return error;
    if (connection->inbox() != "c") return "the answer is not the server's";
    connection->Shutdown();
    connection->Output();
    net_.nic().Publish();
    last = std::move(connection);
    return nullptr;
  });
}

// ---- Datagrams -----------------------------------------------------------------------------------------------------

uint16_t Client::Negotiate(Connection& control, uint32_t bytes, uint32_t rate) {
  const size_t headers = to_.family == AF_INET ? 28 : 48;
  if (bytes < 1 || bytes + headers > net_.nic().mtu()) {
    printf("datagrams of %u bytes do not fit into the MTU of %u, and this guest cuts none\n", bytes,
            net_.nic().mtu());
    return 0;
  }
  const DatagramRequest request = {bytes, rate, static_cast<double>(seconds_) / kGiga};
  control.Write(&request, sizeof request);
  const char* error = Wait(control, [&] { return control.inbox().size() >= 2; });
  if (error != nullptr) {
    Complain(error);
    return 0;
  }
  uint16_t port = 0;
  memcpy(&port, control.inbox().data(), sizeof port);
  control.inbox().erase(0, sizeof port);
  return ntohs(port);
}

int Client::PrintDatagrams(uint64_t sent, uint64_t arrived, int64_t nanoseconds) {
  if (arrived < 2 || nanoseconds <= 0) {
    printf("%llu datagrams sent, %llu arrived\n", static_cast<unsigned long long>(sent),
            static_cast<unsigned long long>(arrived));
    return 1;
  }
  printf("RESULT datagrams sent=%llu received=%llu seconds=%.6f\n", static_cast<unsigned long long>(sent),
         static_cast<unsigned long long>(arrived), static_cast<double>(nanoseconds) / kGiga);
  return 0;
}

// As fast as the device gives descriptors back, or `rate` a second.
int Client::DatagramsUp(uint32_t bytes, uint32_t rate) {
  const auto control = Connect("u");
  const uint16_t port = Negotiate(*control, bytes, rate);
  if (port == 0) return 1;
  Datagrams socket(net_, to_, port, Datagrams::Expect::kPattern);
  uint64_t sent = 0;
  const int64_t started = NowNs();
  int64_t now = started;
  for (; now - started < seconds_; now = NowNs()) {
    unsigned due = kBatch;
    if (rate > 0) {
      const auto wanted = static_cast<uint64_t>(static_cast<double>(now - started) / kGiga * rate);
      due = static_cast<unsigned>(std::min<uint64_t>(wanted - std::min(wanted, sent), kBatch));
    }
    unsigned put = 0;
    while (put < due && socket.Send(bytes)) put++;
    sent += put;
    net_.nic().Publish();
    // With a place left and a datagram due there is nothing to wait for.
    net_.Turn(put == kBatch ? now : now + kNap);
  }
  control->Write("e", 1);
  const char* error = Wait(*control, [&] { return control->inbox().size() >= sizeof(DatagramCount); });
  if (error != nullptr) return Complain(error);
  DatagramCount count{};
  memcpy(&count, control->inbox().data(), sizeof count);
  return PrintDatagrams(sent, count.datagrams, count.last - count.first);
}

int Client::DatagramsDown(uint32_t bytes, uint32_t rate) {
  const auto control = Connect("U");
  const uint16_t port = Negotiate(*control, bytes, rate);
  if (port == 0) return 1;
  Datagrams socket(net_, to_, port, Datagrams::Expect::kFill);
  // Who sends to whom.
  if (!socket.Send(1)) return Complain("no place in the transmit ring");
  const char* error = Wait(*control, [&] { return control->inbox().size() >= 8; }, seconds_ + kLong);
  if (error != nullptr) return Complain(error);
  // What is still on its way.
  uint64_t seen = 0;
  do {
    seen = socket.count();
    net_.Until([] { return false; }, kSecond / 5);
  } while (socket.count() != seen);
  uint64_t sent = 0;
  memcpy(&sent, control->inbox().data(), sizeof sent);
  return PrintDatagrams(sent, socket.count(), socket.last() - socket.first());
}

int Client::DatagramRequestResponse(uint32_t bytes) {
  const auto control = Connect("r");
  const uint16_t port = Negotiate(*control, bytes, 0);
  if (port == 0) return 1;
  Datagrams socket(net_, to_, port, Datagrams::Expect::kPattern);
  std::vector<int64_t> times;
  times.reserve(1 << 20);
  size_t lost = 0;
  const int64_t started = NowNs();
  int64_t before = started;
  while (before - started < seconds_) {
    const uint64_t had = socket.count();
    if (!net_.Until([&] { return socket.Send(bytes); }, kLong)) return Complain("no place in the transmit ring");
    const char* error = Wait(*control, [&] { return socket.count() > had; }, kAnswer);
    if (control->error() != nullptr) return Complain(control->error());
    if (error != nullptr) {
      lost++;
    } else {
      times.push_back(NowNs() - before);
    }
    before = NowNs();
  }
  const std::string more = " lost=" + std::to_string(lost);
  return PrintTransactions(times, before - started, more.c_str());
}

void PrintCounters(Net& net) {
  const Counters& counters = net.counters();
  Nic& nic = net.nic();
  const auto ull = [](uint64_t count) { return static_cast<unsigned long long>(count); };
  printf("RESULT counts retransmits=%llu duplicates=%llu gaps=%llu interrupts=%llu kicks=%llu frames=%llu\n",
         ull(counters.retransmits), ull(counters.duplicates), ull(counters.gaps),
         ull(nic.receive().interrupts() + nic.transmit().interrupts()),
         ull(nic.receive().kicks() + nic.transmit().kicks()),
         ull(nic.frames_in() + nic.frames_out()));
}

int Dispatch(Net& net, const std::vector<std::string>& words) {
  const std::string& verb = words[0];
  const size_t count = words.size();
  if (verb == "counts" && count == 1) {
    PrintCounters(net);
    return 0;
  }
  if (count < 4) return Complain("wanted: VERB ADDRESS PORT SECONDS [ARGUMENT]..., or counts");
  const Address to = Address::Parse(words[1].c_str());
  const auto number = [&](size_t at, uint32_t otherwise) {
    return count > at ? static_cast<uint32_t>(strtoul(words[at].c_str(), nullptr, 10)) : otherwise;
  };
  if (!net.Resolve(to.family)) return Complain("the gateway does not answer (ARP or neighbour discovery)");
  Client client(net, to, static_cast<uint16_t>(number(2, 0)), strtod(words[3].c_str(), nullptr));
  if (verb == "down") return client.Down(SourceOf(net), number(4, 1));
  if (verb == "up") return client.Up(SinkOf(net), number(4, 1));
  // Bytes that are not the pattern's, for a test of --verify: all alike from the source, one too many to the sink.
  if (verb == "down-wrong") return client.Down("s", 1);
  if (verb == "up-wrong") return client.Up("Kx", 1);
  if (verb == "rr" && count >= 5) return client.RequestResponse(number(4, 1), count > 5 && words[5] == "loaded");
  if (verb == "crr") return client.ConnectRequestClose();
  if (verb == "udp-up" && count >= 5) return client.DatagramsUp(number(4, 1), number(5, 0));
  if (verb == "udp-down" && count >= 5) return client.DatagramsDown(number(4, 1), number(5, 0));
  if (verb == "udp-rr" && count >= 5) return client.DatagramRequestResponse(number(4, 1));
  return Complain("no such verb, or too few words for it");
}

}  // namespace

int RunClient(Net& net, const std::vector<std::string>& words) {
  if (words.empty()) return Complain("no verb");
  net.ForgetFault();
  const int status = Dispatch(net, words);
  if (net.fault() == nullptr) return status;
  return Complain(net.fault());
}

}  // namespace bare
