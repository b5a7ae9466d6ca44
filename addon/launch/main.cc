// tubetti-launch NAME NODE SCRIPT ARGUMENT…: what must be done while the process has one thread, then Node, once, under
// NAME. It never refuses: what cannot be had is handed on in $TUBETTI_LAUNCH (src/sandbox/launched.ts), and the service
// decides. docs/sandbox.md has the whole of it.
#include <linux/capability.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../io_uring.h"
#include "launch.h"

namespace tubetti {

namespace {

void HandOn(const Layers& layers, int broker, int holder, const Child& child, bool may_bind, const Words& words) {
  char text[256];
  (void)snprintf(text, sizeof(text),
                 "user=%d mount=%d ipc=%d uts=%d pid=%d nnp=%d broker=%d bind=%d number=%d ready=%d closed=%d listen=%d holder=%d",
                 layers.user, layers.mount, layers.ipc, layers.uts, layers.pid, layers.privileges, broker,
                 may_bind ? 1 : 0, child.pid, child.ready, words.all ? 0 : 1, words.listens ? 1 : 0, holder);
  setenv("TUBETTI_LAUNCH", text, 1);
}

// In one line, with the status of every start that fails.
int CannotRun(bool json, const char* name, const char* node) {
  const int error = errno;
  const bool unknown = error == ENOENT && strchr(node, '/') == nullptr;
  char message[512];
  (void)snprintf(message, sizeof(message), "cannot run %s: %s", node,
                 unknown ? "it is not on the PATH: install Node.js, or give its path in TUBETTI_NODE" : strerror(error));
  Complain(json, CalledAs(name), message);
  return 1;
}

int Launch(const char* name, char** command) {
  OpenStandardStreams();
  const Words words = ReadWords(name, command + 1);
  CloseOthers(words);
  // Before anything is given up: what it does for a command is done with the caller's rights.
  const int holder = IsNamespace(name, command + 2) ? StartHolder(command + 2) : kNotTried;
  Layers layers;
  layers.privileges = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 ? 0 : errno;
  const bool may_bind = HasCapability(CAP_NET_BIND_SERVICE);
  const Started broker = StartBroker();
  EnterNamespaces(layers);
  // It had the time that the namespaces took.
  Bury(broker);
  Child child;
  if (words.background) child = ForkService(name, words.json, layers);
  KeepCapabilities();
  // Without no_new_privs it cannot be had, and the service finds out by itself whether Node has one.
  (void)DenyIoUring();
  HandOn(layers, broker.socket, holder, child, may_bind, words);
  // Node would read the certificates in there at each start, for connections by TLS, of which the service makes none.
  unsetenv("NODE_EXTRA_CA_CERTS");
  // The caller's name for us is the first word that Node sees: passt's callers look for it.
  const char* node = command[0];
  command[0] = const_cast<char*>(name);
  execvp(node, command);
  return CannotRun(words.json, name, node);
}

}  // namespace

}  // namespace tubetti

int main(int argc, char** argv) {
  if (argc < 4) {
    (void)fprintf(stderr, "usage: tubetti-launch NAME NODE SCRIPT [ARGUMENT…] (called by bin/tubetti)\n");
    return 2;
  }
  return tubetti::Launch(argv[1], argv + 2);
}
