// The launcher's parts. It is one thread, has no protocol and knows no option: what it must tell from the words of the
// command line it takes a little too widely (words.cc), and Node decides.
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace tubetti {

// words.cc
struct Words {
  static constexpr int kMost = 64;
  int keep[kMost];  // descriptors that may have been named
  int count = 0;
  bool all = false;         // more may be named where the launcher does not look
  bool background = false;  // the service may have to leave its caller
  bool json = false;        // the log is to be objects
  bool listens = false;     // sockets were passed to this process, as systemd does
};
Words ReadWords(const char* name, char** argv);
// Whether the guest is a namespace (pasta).
bool IsNamespace(const char* name, char** argv);
// What messages begin with: passt's callers look for its name.
const char* CalledAs(const char* name);

// complain.cc: an error, one line on standard error in the form that the service's log has (src/log-format.ts).
void Complain(bool json, const char* program, const char* message);

// descriptors.cc
// Sends `length` bytes as one message on a unix socket, with a descriptor if `fd` is one. Who is gone gets none.
void SendWith(int socket, const void* data, size_t length, int fd);
void OpenStandardStreams();
void CloseOthers(const Words& words);
// Closes all from `first` on but `but`.
void CloseFrom(int first, int but);

// layers.cc: 0: it is there; an errno: it cannot be had; kNotTried; kApart: it cannot be had, but whoever started us has put
// us into one that is not the host's
constexpr int kNotTried = -1;
constexpr int kApart = -2;
struct Layers {
  int user = kNotTried;
  int mount = kNotTried;
  int ipc = kNotTried;
  int uts = kNotTried;
  int pid = kNotTried;
  int privileges = kNotTried;  // no_new_privs
};
void EnterNamespaces(Layers& layers);
bool HasCapability(int capability);
// Keeps what the start needs, over the exec as well.
void KeepCapabilities();

// broker.cc: starts it, by way of a child that ends at once. `socket`: the service's end of its socket, or -errno.
struct Started {
  int socket;
  int child;  // for Bury, which waits for its end; -1: there is none
};
Started StartBroker();
void Bury(const Started& started);

// namespace.cc: starts the process that stays inside the guest's namespaces, where the words of the command line (from behind
// the script's name) ask for one. Gives the service's end of its socket, or -errno.
int StartHolder(char** command_line);

// background.cc: the caller's process waits for a child, the service. Returns in the child only.
struct Child {
  int ready = -1;  // its end of the socket on which the caller's process waits
  int pid = 0;     // its number where it was called from
};
Child ForkService(const char* name, bool json, Layers& layers);

}  // namespace tubetti
