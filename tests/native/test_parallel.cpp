// Parallel loops in a process that was forked off one that had run them: libgomp's threads are not there any more.
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

namespace fastvi::test {
namespace {

constexpr std::int64_t count = 1000;

// What a loop over enough work for several threads writes.
std::vector<std::int64_t> squares() {
  omp_set_num_threads(2);
  std::vector<std::int64_t> out(count);
  parallel_for(count, 1'000'000'000, [&](std::int64_t i) { out[static_cast<std::size_t>(i)] = i * i; });
  return out;
}

void check_fork() {
  const std::vector<std::int64_t> expected = squares();
  for (std::int64_t i = 0; i < count; ++i) check(expected[static_cast<std::size_t>(i)] == i * i, "parallel_for");
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);  // ends a child that waits for threads it does not have
    _exit(same_bits(squares(), expected) ? 0 : 1);
  }
  int status = -1;
  check(child > 0 && waitpid(child, &status, 0) == child, "fork");
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "parallel_for in a forked child");
  check(same_bits(squares(), expected), "parallel_for in the parent of a forked child");
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::check_fork();
  return fastvi::test::report("parallel");
}
