// The few functions of libgomp that the kernels' parallel loops call, over std::thread: for ThreadSanitizer alone.
#include <algorithm>
#include <thread>
#include <vector>

namespace {

int requested_threads = 1;
thread_local int team_size = 1, number_in_team = 0;

}  // namespace

extern "C" {

void omp_set_num_threads(int threads) { requested_threads = std::max(threads, 1); }
int omp_get_max_threads() { return requested_threads; }
int omp_get_num_threads() { return team_size; }
int omp_get_thread_num() { return number_in_team; }
int omp_in_parallel() { return team_size > 1 ? 1 : 0; }

void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned) {
  std::vector<std::thread> team;
  for (unsigned number = 0; number < threads; ++number) {
    team.emplace_back([=] {
      team_size = static_cast<int>(threads);
      number_in_team = static_cast<int>(number);
      body(data);
    });
  }
  for (std::thread& member : team) member.join();
}
}
