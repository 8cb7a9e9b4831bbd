// Fibers: functions on stacks of their own, which hand the processor to each other. To switch takes a few instructions,
// and AddressSanitizer is told about it.
#pragma once

#include <cstddef>

namespace cuda_on_host {

// Stays on the OS thread that made it.
class Fiber {
 public:
  // The stack that runs now, the OS thread's own: one for a thread, before the others and until after them.
  Fiber();

  // A stack on which `work` is called again and again. It must not throw: there is nobody to catch it.
  explicit Fiber(void (*work)());

  // `work` must be over, but for a call of resume() at its end, which returns now.
  ~Fiber();

  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Goes on where this fiber stopped, or not at all if that is here. Returns when the caller's fiber is resumed.
  void resume();

 private:
  [[noreturn]] static void begin();
  void leave_for(Fiber& next, bool for_good = false);
  void arrive();

  void (*work_)() = nullptr;
  bool ending_ = false;
  Fiber* previous_ = nullptr;
  std::byte* memory_ = nullptr;
  void* stopped_at_ = nullptr;

  // What AddressSanitizer knows a stack by.
  const void* stack_ = nullptr;
  std::size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;
};

}  // namespace cuda_on_host
