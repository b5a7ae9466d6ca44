#pragma once

#include <sys/types.h>

// What `CallIn` returns where the call ended the process by a signal: this, less the signal's number.
constexpr long kEndedBy = -10000;

// The result of system call `number` with these arguments in process `pid`, which waits in another one; -errno.
long CallIn(pid_t pid, long number, const long (&args)[3]);
