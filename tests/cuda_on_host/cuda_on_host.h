// A stand-in for CUDA's execution model, with which a C++ compiler builds the kernels that nvcc builds, so that tests
// and sanitizers run them on a machine without a GPU. Blocks of a grid run one after the other, on the OS thread that
// launches them; every thread of a block is a fiber, which runs until it waits for others or ends. The one to run next
// is the lowest that can run, the highest or a random one (set_order), so that a missing barrier shows in one of them.
// What CUDA leaves undefined is a std::logic_error thrown out of the launch, and so is to wait for a thread that has
// exited; a kernel must not catch it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

extern constinit thread_local uint3 threadIdx, blockIdx;
extern constinit thread_local dim3 blockDim, gridDim;

using cudaStream_t = struct CUstream_st*;

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidDevice = 101 };

// A launch reports its errors by exceptions.
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
  }
  return "unrecognized error code";
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }

namespace cuda_on_host {

// "forward", "reverse", or the seed of a random order, for all launches that begin after the call. Until then it is
// what the environment variable FASTVI_CUDA_ON_HOST_ORDER says, or forward.
void set_order(std::string_view order);

// Vector loads and stores, which a processor may do at any address and a GPU may not, ask this first.
void check_access(const void* pointer, std::size_t bytes);

enum class Operation { syncthreads, syncwarp, shfl, shfl_up, shfl_down, shfl_xor, ballot, any, all };

// What a thread brings to where threads wait for each other.
struct Meeting {
  Operation operation;
  std::source_location where;
  unsigned mask = 0;         // of lanes; not for a block's barrier
  std::uint64_t value = 0;   // a vote, or the bits to be shuffled
  std::size_t bytes = 0;     // of those bits
  std::int64_t operand = 0;  // of a shuffle: the source lane, a distance or a mask
  int width = 0;
};

// Waits for the others, and returns what the operation gives to this thread.
std::uint64_t meet(const Meeting& meeting);

template <class T>
T shuffle(Meeting meeting, T value) {
  static_assert(std::is_arithmetic_v<T> && sizeof(T) <= sizeof meeting.value);
  meeting.bytes = sizeof(T);
  std::memcpy(&meeting.value, &value, sizeof(T));
  const std::uint64_t result = meet(meeting);
  std::memcpy(&value, &result, sizeof(T));
  return value;
}

// The running block's memory for a declaration, filled with 0xFF: NaN in any floating-point type.
void* shared_memory(const void* declaration, std::size_t bytes);

template <class T, std::size_t count>
using Array = T[count];

template <class T, std::size_t count>
Array<T, count>& shared_array(const void* declaration) {
  static_assert(std::is_trivially_default_constructible_v<T> && alignof(T) <= __STDCPP_DEFAULT_NEW_ALIGNMENT__);
  return *static_cast<Array<T, count>*>(shared_memory(declaration, sizeof(Array<T, count>)));
}

// How many kernels the calling OS thread has launched. Can be looked up by name in a module that is built for the host.
extern "C" __attribute__((visibility("default"))) std::uint64_t cuda_on_host_launches();

void run_grid(dim3 grid, dim3 block, void (*thread)(const void* arguments), const void* arguments);

// As on a GPU, the arguments are evaluated and converted once.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, cudaStream_t, Arguments&&... arguments) {
  const std::tuple<void (*)(Parameters...), Parameters...> call(kernel, std::forward<Arguments>(arguments)...);
  const auto thread = [](const void* made) {
    std::apply([](auto function, const auto&... values) { function(values...); },
               *static_cast<const decltype(call)*>(made));
  };
  run_grid(grid, block, thread, &call);
}

}  // namespace cuda_on_host

// The static variable is one for each declaration and instantiation, which is what shared memory is.
#define FASTVI_SHARED(T, name, count)     \
  static const char name##_declaration{}; \
  auto& name = cuda_on_host::shared_array<T, count>(&name##_declaration)

#define FASTVI_LAUNCH(kernel, grid, block, stream, ...) \
  cuda_on_host::launch(kernel, grid, block, stream __VA_OPT__(, ) __VA_ARGS__)

// Few, so that the loops that stride over a grid go round in small tests too.
#define FASTVI_MOST_BLOCKS 5
#define FASTVI_CACHED_NUMBERS 4096

inline void __syncthreads(std::source_location where = std::source_location::current()) {
  cuda_on_host::meet({.operation = cuda_on_host::Operation::syncthreads, .where = where});
}

inline void __syncwarp(unsigned mask = 0xffffffffu, std::source_location where = std::source_location::current()) {
  cuda_on_host::meet({.operation = cuda_on_host::Operation::syncwarp, .where = where, .mask = mask});
}

inline unsigned __ballot_sync(unsigned mask, int predicate,
                              std::source_location where = std::source_location::current()) {
  return static_cast<unsigned>(cuda_on_host::meet(
      {.operation = cuda_on_host::Operation::ballot, .where = where, .mask = mask, .value = predicate != 0}));
}

inline int __any_sync(unsigned mask, int predicate, std::source_location where = std::source_location::current()) {
  return static_cast<int>(cuda_on_host::meet(
      {.operation = cuda_on_host::Operation::any, .where = where, .mask = mask, .value = predicate != 0}));
}

inline int __all_sync(unsigned mask, int predicate, std::source_location where = std::source_location::current()) {
  return static_cast<int>(cuda_on_host::meet(
      {.operation = cuda_on_host::Operation::all, .where = where, .mask = mask, .value = predicate != 0}));
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source_lane, int width = 32,
              std::source_location where = std::source_location::current()) {
  return cuda_on_host::shuffle({.operation = cuda_on_host::Operation::shfl,
                                .where = where,
                                .mask = mask,
                                .operand = source_lane,
                                .width = width},
                               value);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, int width = 32,
                 std::source_location where = std::source_location::current()) {
  return cuda_on_host::shuffle({.operation = cuda_on_host::Operation::shfl_up,
                                .where = where,
                                .mask = mask,
                                .operand = distance,
                                .width = width},
                               value);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance, int width = 32,
                   std::source_location where = std::source_location::current()) {
  return cuda_on_host::shuffle({.operation = cuda_on_host::Operation::shfl_down,
                                .where = where,
                                .mask = mask,
                                .operand = distance,
                                .width = width},
                               value);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  std::source_location where = std::source_location::current()) {
  return cuda_on_host::shuffle({.operation = cuda_on_host::Operation::shfl_xor,
                                .where = where,
                                .mask = mask,
                                .operand = lane_mask,
                                .width = width},
                               value);
}
