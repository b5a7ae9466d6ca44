// A guest that is not the bottleneck: the driver's side of a virtio network card over vhost-user, with a TCP and UDP
// that are fast sinks and sources. What is measured with it is the back-end.
//
// Commands come on stdin, one a line: "ID VERB ARGUMENT...", with the verbs of bench-net's clients. What a client says
// is printed as it comes, and at its end "@END ID STATUS". Between commands the program sleeps and answers on the link.
#include <getopt.h>
#include <signal.h>
#include <unistd.h>

#include <bit>
#include <cstdio>
#include <sstream>
#include <string>

#include "clients.h"
#include "net.h"

namespace bare {

namespace {

struct Feature {
  const char* name;
  unsigned bit;
};

constexpr Feature kFeatures[] = {
    {"csum", VIRTIO_NET_F_CSUM},
    {"guest_csum", VIRTIO_NET_F_GUEST_CSUM},
    {"guest_tso4", VIRTIO_NET_F_GUEST_TSO4},
    {"guest_tso6", VIRTIO_NET_F_GUEST_TSO6},
    {"host_tso4", VIRTIO_NET_F_HOST_TSO4},
    {"host_tso6", VIRTIO_NET_F_HOST_TSO6},
    {"mrg_rxbuf", VIRTIO_NET_F_MRG_RXBUF},
    {"event_idx", VIRTIO_F_EVENT_IDX},
};

uint64_t AllFeatures() {
  uint64_t all = 0;
  for (const Feature& each : kFeatures) all |= Bit(each.bit);
  return all;
}

uint64_t BitOf(const std::string& name) {
  for (const Feature& each : kFeatures) {
    if (name == each.name) return Bit(each.bit);
  }
  Fail("--features: no feature %s", name.c_str());
}

// As TUBETTI_FEATURES: from left to right, `none` and `all` are sets, NAME adds and -NAME takes away.
uint64_t ParseFeatures(const char* list) {
  uint64_t features = 0;
  std::istringstream words(list);
  for (std::string word; std::getline(words, word, ',');) {
    if (word == "none") {
      features = 0;
    } else if (word == "all") {
      features = AllFeatures();
    } else if (word.starts_with('-')) {
      features &= ~BitOf(word.substr(1));
    } else {
      features |= BitOf(word);
    }
  }
  // Without what they need (virtio 1.2 §5.1.3.1) no driver takes them.
  const auto needs = [&](unsigned needed, unsigned first, unsigned second) {
    if ((features & Bit(needed)) == 0) features &= ~(Bit(first) | Bit(second));
  };
  needs(VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6);
  needs(VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6);
  return features;
}

void PrintReady(const Nic& nic) {
  printf("READY");
  for (const Feature& each : kFeatures) {
    if (nic.has(each.bit)) printf(" %s", each.name);
  }
  printf("\n");
  (void)fflush(stdout);
}

// Serves commands until stdin ends.
void Serve(Net& net) {
  std::string input;
  for (;;) {
    const size_t end = input.find('\n');
    if (end == std::string::npos) {
      net.Idle(STDIN_FILENO);
      char bytes[4096];
      const ssize_t got = read(STDIN_FILENO, bytes, sizeof bytes);
      if (got <= 0) return;
      input.append(bytes, static_cast<size_t>(got));
      continue;
    }
    std::istringstream line(input.substr(0, end));
    input.erase(0, end + 1);
    std::string id;
    line >> id;
    std::vector<std::string> words;
    for (std::string word; line >> word;) words.push_back(word);
    const int status = RunClient(net, words);
    printf("@END %s %d\n", id.c_str(), status);
    (void)fflush(stdout);
  }
}

uint16_t Number(const char* option, const char* text, long least, long most) {
  char* end = nullptr;
  const long value = strtol(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value < least || value > most) {
    Fail("--%s wants a number from %ld to %ld, not %s", option, least, most, text);
  }
  return static_cast<uint16_t>(value);
}

constexpr char kUsage[] =
    "bench-bare SOCKET --own4 A --gateway4 A --own6 A --gateway6 A [--mtu N] [--ring N] [--features LIST] [--poll]\n"
    "[--verify]";

NetOptions ParseOptions(int argc, char** argv) {
  const option options[] = {{"own4", 1, nullptr, 'o'},     {"gateway4", 1, nullptr, 'g'}, {"own6", 1, nullptr, 'O'},
                            {"gateway6", 1, nullptr, 'G'}, {"mtu", 1, nullptr, 'm'},      {"ring", 1, nullptr, 'r'},
                            {"features", 1, nullptr, 'f'}, {"poll", 0, nullptr, 'p'},     {"verify", 0, nullptr, 'v'},
                            {nullptr, 0, nullptr, 0}};
  NetOptions parsed;
  parsed.nic.features = AllFeatures();
  for (int found = 0; (found = getopt_long(argc, argv, "", options, nullptr)) != -1;) {
    switch (found) {
      case 'o':
        parsed.own4 = Address::Parse(optarg);
        break;
      case 'g':
        parsed.gateway4 = Address::Parse(optarg);
        break;
      case 'O':
        parsed.own6 = Address::Parse(optarg);
        break;
      case 'G':
        parsed.gateway6 = Address::Parse(optarg);
        break;
      case 'm':
        parsed.nic.mtu = Number("mtu", optarg, 1280, 65520);
        break;
      case 'r':
        parsed.nic.ring_size = Number("ring", optarg, 4, 1024);
        if (!std::has_single_bit(parsed.nic.ring_size)) Fail("--ring wants a power of two, not %s", optarg);
        break;
      case 'f':
        parsed.nic.features = ParseFeatures(optarg);
        break;
      case 'p':
        parsed.poll = true;
        break;
      case 'v':
        parsed.verify = true;
        break;
      default:
        Fail("usage: %s", kUsage);
    }
  }
  if (optind + 1 != argc) Fail("usage: %s", kUsage);
  parsed.nic.socket = argv[optind];
  return parsed;
}

}  // namespace

}  // namespace bare

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  bare::Net net(bare::ParseOptions(argc, argv));
  bare::PrintReady(net.nic());
  bare::Serve(net);
  net.nic().front_end().Stop(2);
  return 0;
}
