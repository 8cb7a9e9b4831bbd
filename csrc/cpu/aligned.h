// Memory that vectors may be aligned in.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace fastvi {

struct Free {
  void operator()(void* memory) const { ::operator delete(memory, std::align_val_t(64)); }
};

template <class T>
class Buffer {
 public:
  explicit Buffer(std::int64_t count)
      : memory_(::operator new(static_cast<std::size_t>(count) * sizeof(T), std::align_val_t(64))) {}
  T* get() const { return static_cast<T*>(memory_.get()); }

 private:
  std::unique_ptr<void, Free> memory_;
};

}  // namespace fastvi
