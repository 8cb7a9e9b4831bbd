#include "fiber.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#if defined(__ELF__) && (defined(__x86_64__) || defined(__aarch64__))
// Saves the registers that a function must preserve, puts the stack pointer into *stopped_at, and goes on at
// `go_on_at`, which an earlier call stored or prepare_stack() returned. Unlike swapcontext() it does not ask the kernel
// for the signal mask. Rounding modes are left alone: kernels do not change them.
extern "C" void cuda_on_host_switch(void** stopped_at, void* go_on_at);
#else
#include <ucontext.h>
#endif

#if defined(__ELF__) && defined(__x86_64__)
asm(R"(
  .text
  .globl cuda_on_host_switch
  .hidden cuda_on_host_switch
  .type cuda_on_host_switch, @function
cuda_on_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size cuda_on_host_switch, . - cuda_on_host_switch
)");
#elif defined(__ELF__) && defined(__aarch64__)
asm(R"(
  .text
  .globl cuda_on_host_switch
  .hidden cuda_on_host_switch
  .type cuda_on_host_switch, %function
cuda_on_host_switch:
  sub sp, sp, #160
  stp x19, x20, [sp]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
  .size cuda_on_host_switch, . - cuda_on_host_switch
)");
#endif

namespace cuda_on_host {
namespace {

// ThreadSanitizer need not be told: to it this is one thread, as it is, though stacks in its reports are mixed up.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool address_sanitizer = true;
#elif defined(__clang__)
constexpr bool address_sanitizer = __has_feature(address_sanitizer);
#else
constexpr bool address_sanitizer = false;
#endif

// Room for what sanitizers add; only pages that are written take memory.
constexpr std::size_t stack_bytes = 256 * 1024;

std::size_t guard_bytes() {
  static const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return page;
}

// A stack that ends at an inaccessible page, so that an overflow is a fault and nothing else's memory.
std::byte* map_stack() {
  void* memory = mmap(nullptr, guard_bytes() + stack_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, guard_bytes(), PROT_NONE) != 0) throw std::bad_alloc();
  return static_cast<std::byte*>(memory);
}

// Where a stack starts to grow down: not at the same cache line of a page for all, or they would evict each other.
std::byte* start_of(std::byte* memory) {
  const std::uintptr_t page = reinterpret_cast<std::uintptr_t>(memory) / guard_bytes();
  return memory + guard_bytes() + stack_bytes - page % 64 * 64;
}

#if defined(__ELF__) && (defined(__x86_64__) || defined(__aarch64__))
void switch_stacks(void** stopped_at, void* go_on_at) { cuda_on_host_switch(stopped_at, go_on_at); }

// What cuda_on_host_switch() finds on a stack that it has not left before: the address of `entry` among zeros.
void* prepare_stack(std::byte* memory, void (*entry)()) {
#if defined(__x86_64__)
  constexpr std::size_t words = 8, return_address = 6;  // the last is where `entry` would return to
#else
  constexpr std::size_t words = 20, return_address = 11;
#endif
  auto* frame = reinterpret_cast<std::uintptr_t*>(start_of(memory)) - words;
  frame[return_address] = reinterpret_cast<std::uintptr_t>(entry);
  return frame;
}
#else
void switch_stacks(void** stopped_at, void* go_on_at) {
  ucontext_t here;
  *stopped_at = &here;
  swapcontext(&here, static_cast<ucontext_t*>(go_on_at));
}

void* prepare_stack(std::byte* memory, void (*entry)()) {
  constexpr std::size_t context_bytes = (sizeof(ucontext_t) + 63) / 64 * 64;
  auto* start = new (start_of(memory) - context_bytes) ucontext_t;
  getcontext(start);
  start->uc_stack.ss_sp = memory + guard_bytes();
  start->uc_stack.ss_size = static_cast<std::size_t>(reinterpret_cast<std::byte*>(start) - memory) - guard_bytes();
  makecontext(start, entry, 0);
  return start;
}
#endif

constinit thread_local Fiber* running = nullptr;

}  // namespace

Fiber::Fiber() { running = this; }

Fiber::Fiber(void (*work)()) : work_(work), memory_(map_stack()), stack_(memory_ + guard_bytes()) {
  stopped_at_ = prepare_stack(memory_, begin);
  stack_bytes_ = stack_bytes;
}

Fiber::~Fiber() {
  if (memory_ == nullptr) return;
  ending_ = true;
  resume();
  if constexpr (address_sanitizer) __asan_unpoison_memory_region(stack_, stack_bytes_);
  munmap(memory_, guard_bytes() + stack_bytes);
}

void Fiber::resume() {
  if (this == running) return;
  Fiber& caller = *running;
  caller.leave_for(*this);
  caller.arrive();
}

void Fiber::begin() {
  Fiber& self = *running;
  self.arrive();
  while (!self.ending_) self.work_();
  self.leave_for(*self.previous_, true);
  std::abort();
}

void Fiber::leave_for(Fiber& next, bool for_good) {
  next.previous_ = this;
  running = &next;
  // Without a place to keep it, AddressSanitizer frees the fake stack.
  if constexpr (address_sanitizer) {
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack_, next.stack_, next.stack_bytes_);
  }
  switch_stacks(&stopped_at_, next.stopped_at_);
}

void Fiber::arrive() {
  // This is how the OS thread's own stack becomes known.
  if constexpr (address_sanitizer) {
    __sanitizer_finish_switch_fiber(fake_stack_, &previous_->stack_, &previous_->stack_bytes_);
  }
}

}  // namespace cuda_on_host
