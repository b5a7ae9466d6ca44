// The service's side of its broker (broker_protocol.h).
#pragma once

#include <sys/socket.h>

#include <cstdint>

namespace tubetti {

// Binds an inet socket: by the broker if it is a port below 1024 that is not ours to bind. 0 or -errno.
int32_t BindName(int fd, const sockaddr* name, socklen_t length);

}  // namespace tubetti
