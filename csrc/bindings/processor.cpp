// Which x86-64 microarchitecture level this processor and its operating system run; built for the lowest level, since
// it must load everywhere.
#include <pybind11/pybind11.h>

namespace {

int microarchitecture_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool v2 = __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1") &&
                  __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
  const bool v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  return v4 ? 4 : v3 ? 3 : v2 ? 2 : 1;
#else
  return 0;
#endif
}

}  // namespace

PYBIND11_MODULE(_processor, m) {
  m.doc() = "What this processor can run.";
  m.def("microarchitecture_level", &microarchitecture_level,
        "The x86-64 level (1 to 4) of this processor; 0 on other architectures.");
}
