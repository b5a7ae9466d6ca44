// The parts of the process that stays inside the guest's namespaces: namespace.cc serves, enter.cc goes there, command.cc
// runs the command.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "../namespace_protocol.h"

namespace tubetti {

// Where to go and how.
struct Entry {
  int32_t flags;
  int32_t uid;  // to become before; -1: stay
  int32_t gid;
  const char* user;  // path of a user namespace; empty: none
  const char* net;   // path of a network namespace
  const char* host;  // name of the host in it; empty: none
};

// command.cc: the process that becomes the command once it is let go.
struct Command {
  pid_t pid = -1;
  int start = -1;  // a word lets it go, and an errno comes back where it cannot be executed
};
// What the terminal or a user says to all processes here is not for the holder. The command has of it what the caller had.
void IgnoreSignals();
// In new namespaces (CLONE_NEW*). False: errno.
bool ForkCommand(Command& command, unsigned long namespaces, const char* host, char** words);
// Lets it execute the words from `first` on, or a shell (-1). 0 or -errno; `failed` gets the program's name.
int32_t StartCommand(Command& command, int32_t first, char** words, char* failed, size_t room);
// The caller's streams are the command's, or the service's, and nobody else's: who reads the other end sees their end.
void LeaveStreams();
// Kills it if it does nothing about the signal.
void InterruptCommand(const Command& command, int signal);

// holder_filter.cc: from now on few system calls are left; `only_log`: the others are made, and logged. 0 or -errno.
int32_t FilterHolder(bool only_log);

// enter.cc: 0 or -errno; `failed` gets what it is about.
int32_t Enter(const Entry& entry, Command& command, char** words, char* failed, size_t room);
// Another user, without supplementary groups; -1: stay. 0 or -errno.
int32_t Become(int32_t uid, int32_t gid);
// A descriptor that is readable when something was removed beside `path`; -1: there is none to be had.
int WatchDirectoryOf(const char* path);
// Whether `path` still is the network namespace that this process is in.
bool IsStillThere(const char* path);

}  // namespace tubetti
