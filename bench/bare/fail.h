// The end of the program, with a line that says why.
#pragma once

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bare {

[[noreturn, gnu::format(printf, 1, 2)]] inline void Fail(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("bench-bare: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

[[noreturn]] inline void FailErrno(const char* what) { Fail("%s: %s", what, strerror(errno)); }

}  // namespace bare
