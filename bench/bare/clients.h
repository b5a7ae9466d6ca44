// The clients: each does what bench-net's client of the same name does, and says it with the same RESULT line.
#pragma once

#include <string>
#include <vector>

#include "net.h"

namespace bare {

// `words`: a verb and its arguments, as bench-net's. Returns the exit status; what went wrong is printed before, as
// results are.
int RunClient(Net& net, const std::vector<std::string>& words);

}  // namespace bare
