// libuv polls of one environment. See watch.cc.
#pragma once

#include <node_api.h>

namespace tubetti {

struct Thread;

// Makes the thread's set and ties its end to the environment's. False if Node-API refused.
bool MakePollSet(Thread& thread);

}  // namespace tubetti
