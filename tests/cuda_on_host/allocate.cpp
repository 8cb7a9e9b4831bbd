// Scratch memory for kernels that a C++ test calls, without a caller that lends it: kept until the thread's next
// kernels have theirs, and of exactly the size that was asked for, so that AddressSanitizer sees a write past it.
#include <array>
#include <cstddef>
#include <memory>

#include "../../csrc/cuda/queue.h"

namespace {

[[maybe_unused]] const bool installed = [] {
  fastvi::queue().allocate = [](std::size_t bytes) -> void* {
    static std::array<std::unique_ptr<std::byte[]>, 8> kept;  // more than a kernel function asks for
    static std::size_t next = 0;
    auto& memory = kept[next++ % kept.size()];
    memory.reset(new std::byte[bytes]);
    return memory.get();
  };
  return true;
}();

}  // namespace
