#include "cuda_on_host.h"

#include <array>
#include <atomic>
#include <bit>
#include <charconv>
#include <cstdlib>
#include <exception>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

constinit thread_local uint3 threadIdx{}, blockIdx{};
constinit thread_local dim3 blockDim{}, gridDim{};

namespace cuda_on_host {
namespace {

constexpr unsigned warp_size = 32, most_warps = 32, most_threads = warp_size * most_warps;
constexpr std::size_t most_shared_bytes = 48 * 1024;

struct Order {
  enum class Kind : std::uint32_t { forward, reverse, random } kind = Kind::forward;
  std::uint32_t seed = 0;
};

Order parse_order(std::string_view text) {
  if (text == "forward") return {Order::Kind::forward};
  if (text == "reverse") return {Order::Kind::reverse};
  Order order{Order::Kind::random};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), order.seed);
  if (error != std::errc{} || end != text.data() + text.size()) {
    throw std::invalid_argument("order of CUDA threads on the host: expected forward, reverse or a seed, got \"" +
                                std::string(text) + '"');
  }
  return order;
}

std::atomic<Order>& chosen_order() {
  static std::atomic<Order> order = [] {
    const char* variable = std::getenv("FASTVI_CUDA_ON_HOST_ORDER");
    return parse_order(variable == nullptr ? "forward" : variable);
  }();
  return order;
}

template <class Index>
std::string describe(const Index& index) {
  std::ostringstream text;
  text << '(' << index.x << ", " << index.y << ", " << index.z << ')';
  return text.str();
}

std::string describe(const Meeting& meeting) {
  constexpr std::array names{"__syncthreads",   "__syncwarp",    "__shfl_sync", "__shfl_up_sync", "__shfl_down_sync",
                             "__shfl_xor_sync", "__ballot_sync", "__any_sync",  "__all_sync"};
  std::ostringstream text;
  text << names[static_cast<std::size_t>(meeting.operation)];
  if (meeting.operation != Operation::syncthreads) text << " with mask 0x" << std::hex << meeting.mask << std::dec;
  if (meeting.bytes != 0) text << " of " << meeting.bytes << " bytes";
  text << " (" << meeting.where.file_name() << ':' << meeting.where.line() << ')';
  return text.str();
}

bool meet_each_other(const Meeting& a, const Meeting& b) {
  if (a.operation != b.operation) return false;
  // A GPU takes one __syncthreads() for another, and then the threads go on from different places.
  if (a.operation == Operation::syncthreads) {
    return a.where.line() == b.where.line() && a.where.column() == b.where.column();
  }
  return a.mask == b.mask && a.bytes == b.bytes;
}

bool is_shuffle(Operation operation) { return operation >= Operation::shfl && operation <= Operation::shfl_xor; }

// The lane that a shuffle reads, by the rules of the CUDA C++ Programming Guide: beyond its segment of `width` lanes a
// lane reads itself, except that shfl wraps around, and that shfl_xor reaches earlier segments.
unsigned source_lane(const Meeting& shuffle, unsigned lane) {
  const auto width = static_cast<unsigned>(shuffle.width), operand = static_cast<unsigned>(shuffle.operand);
  const unsigned first = lane & ~(width - 1), last = lane | (width - 1);
  switch (shuffle.operation) {
    case Operation::shfl:
      return first + (operand & (width - 1));
    case Operation::shfl_up:
      return operand <= lane - first ? lane - operand : lane;
    case Operation::shfl_down:
      return operand <= last - lane ? lane + operand : lane;
    default:
      return (lane ^ operand) <= last ? lane ^ operand : lane;
  }
}

// Unwinds a fiber whose launch has failed.
struct Cancelled {};

struct Thread {
  uint3 index;
  std::unique_ptr<Fiber> fiber;  // from its start to its end
  const Meeting* meeting;        // what it waits in, on its stack
  unsigned source;               // the lane whose value it gets
  std::uint64_t result;
};

// Bits are lanes. One in none of these waits for its block.
struct Warp {
  unsigned ready = 0, meeting = 0, exited = 0;
};

// Runs the blocks that its OS thread launches.
class Multiprocessor {
 public:
  void run(dim3 grid, dim3 block, void (*body)(const void*), const void* arguments);
  std::uint64_t meet(const Meeting& meeting);
  void* shared_memory(const void* declaration, std::size_t bytes);

 private:
  struct SharedArray {
    const void* declaration;
    std::size_t size;
    std::unique_ptr<std::byte[]> memory;
  };

  static void run_thread();
  void run_block();
  void go_on();
  void resume(unsigned number);
  unsigned next();
  unsigned pick(unsigned bits);
  void release_warp(Warp& warp, unsigned mask);
  bool release_block();
  void cancel();
  bool has_exited(unsigned number) const { return (warps_[number / warp_size].exited >> number % warp_size & 1) != 0; }
  std::string why_stuck() const;

  std::vector<Thread> threads_ = std::vector<Thread>(most_threads);
  std::array<Warp, most_warps> warps_;
  unsigned size_ = 0;         // threads of a block
  unsigned ready_warps_ = 0;  // bits: the warps that have a ready lane
  unsigned exited_ = 0, at_barrier_ = 0;
  unsigned current_ = 0;
  void (*body_)(const void*) = nullptr;
  const void* arguments_ = nullptr;
  std::exception_ptr failure_;  // not null: no other thread goes on, but to be unwound
  Order order_;
  std::uint64_t random_ = 0;
  std::vector<SharedArray> shared_;
  Fiber scheduler_;
  std::vector<std::unique_ptr<Fiber>> idle_;  // taken from the end, where stacks are still in the cache
};

// Not null while a kernel runs on this OS thread.
constinit thread_local Multiprocessor* running = nullptr;

constinit thread_local std::uint64_t launches = 0;

std::string position() {
  if (running == nullptr) return "outside of a kernel";
  return "block " + describe(blockIdx) + ", thread " + describe(threadIdx);
}

void Multiprocessor::run(dim3 grid, dim3 block, void (*body)(const void*), const void* arguments) {
  size_ = block.x * block.y * block.z;
  body_ = body;
  arguments_ = arguments;
  order_ = chosen_order();
  random_ = order_.seed;
  blockDim = block;
  gridDim = grid;
  auto thread = threads_.begin();
  for (unsigned z = 0; z < block.z; ++z) {
    for (unsigned y = 0; y < block.y; ++y) {
      for (unsigned x = 0; x < block.x; ++x) (thread++)->index = {x, y, z};
    }
  }
  running = this;
  try {
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
      for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block();
      }
    }
  } catch (...) {
    cancel();
    running = nullptr;
    throw;
  }
  running = nullptr;
}

void Multiprocessor::run_block() {
  exited_ = at_barrier_ = ready_warps_ = 0;
  for (unsigned first = 0; first < size_; first += warp_size) {
    const unsigned lanes = size_ - first;
    warps_[first / warp_size] = {lanes < warp_size ? (1u << lanes) - 1 : ~0u};
    ready_warps_ |= 1u << first / warp_size;
  }
  do {
    go_on();
    if (failure_ != nullptr) std::rethrow_exception(failure_);
  } while (release_block());
  if (exited_ != size_) throw std::logic_error(why_stuck());
  shared_.clear();
}

// Hands the processor to the next thread that is ready, or back to run_block() or cancel(). Threads switch to each
// other directly: that is half the switches, and since all stop here, the processor predicts where they return to.
void Multiprocessor::go_on() {
  if (ready_warps_ == 0 || failure_ != nullptr) {
    scheduler_.resume();
  } else {
    resume(next());
  }
}

void Multiprocessor::resume(unsigned number) {
  Thread& thread = threads_[number];
  if (thread.fiber == nullptr) {
    if (idle_.empty()) idle_.push_back(std::make_unique<Fiber>(run_thread));
    thread.fiber = std::move(idle_.back());
    idle_.pop_back();
  }
  current_ = number;
  threadIdx = thread.index;
  thread.fiber->resume();
}

// A fiber's work. Where the next thread has not begun yet, it is this fiber that go_on() takes for it, and returns at
// once: threads that wait for nobody run one after the other without a switch.
void Multiprocessor::run_thread() {
  Multiprocessor& self = *running;
  const unsigned number = self.current_;
  try {
    self.body_(self.arguments_);
  } catch (const Cancelled&) {
  } catch (...) {
    self.failure_ = std::current_exception();
  }
  self.warps_[number / warp_size].exited |= 1u << number % warp_size;
  ++self.exited_;
  self.idle_.push_back(std::move(self.threads_[number].fiber));
  self.go_on();
}

std::uint64_t Multiprocessor::meet(const Meeting& meeting) {
  Thread& thread = threads_[current_];
  thread.meeting = &meeting;
  if (meeting.operation == Operation::syncthreads) {
    ++at_barrier_;
  } else {
    Warp& warp = warps_[current_ / warp_size];
    const unsigned lane = current_ % warp_size;
    const auto fail = [&](const char* what) { throw std::logic_error(position() + ", " + describe(meeting) + what); };
    thread.source = lane;
    if ((meeting.mask >> lane & 1) == 0) fail(": the mask does not name the lane itself");
    if (is_shuffle(meeting.operation)) {
      if (meeting.width < 1 || meeting.width > 32 || (meeting.width & (meeting.width - 1)) != 0) {
        fail(": the width is not a power of two up to 32");
      }
      thread.source = source_lane(meeting, lane);
      if (thread.source >= warp_size || (meeting.mask >> thread.source & 1) == 0) {
        fail(": the mask does not name the lane that is read");
      }
    }
    warp.meeting |= 1u << lane;
    if ((warp.meeting & meeting.mask) == meeting.mask) release_warp(warp, meeting.mask);
  }
  go_on();
  if (failure_ != nullptr) throw Cancelled{};
  return thread.result;
}

// Lets the current lane and the others of `mask` go on, all of which wait, if they wait for each other.
void Multiprocessor::release_warp(Warp& warp, unsigned mask) {
  Thread* lanes = &threads_[current_ / warp_size * warp_size];
  const Meeting& meeting = *threads_[current_].meeting;
  unsigned votes = 0;
  for (unsigned left = mask; left != 0; left &= left - 1) {
    const int lane = std::countr_zero(left);
    if (!meet_each_other(*lanes[lane].meeting, meeting)) return;
    if (lanes[lane].meeting->value != 0) votes |= 1u << lane;
  }
  for (unsigned left = mask; left != 0; left &= left - 1) {
    Thread& thread = lanes[std::countr_zero(left)];
    switch (meeting.operation) {
      case Operation::ballot:
        thread.result = votes;
        break;
      case Operation::any:
        thread.result = votes != 0;
        break;
      case Operation::all:
        thread.result = votes == mask;
        break;
      default:
        thread.result = lanes[thread.source].meeting->value;
    }
  }
  warp.meeting &= ~mask;
  warp.ready |= mask;
  ready_warps_ |= 1u << current_ / warp_size;
}

// Lets the block's threads go on if all wait for each other.
bool Multiprocessor::release_block() {
  if (at_barrier_ != size_) return false;
  for (unsigned number = 1; number < size_; ++number) {
    if (!meet_each_other(*threads_[0].meeting, *threads_[number].meeting)) return false;
  }
  at_barrier_ = 0;
  for (unsigned number = 0; number < size_; ++number) warps_[number / warp_size].ready |= 1u << number % warp_size;
  for (unsigned first = 0; first < size_; first += warp_size) ready_warps_ |= 1u << first / warp_size;
  return true;
}

// Takes the next thread from those that are ready.
unsigned Multiprocessor::next() {
  const unsigned number_of_warp = pick(ready_warps_);
  Warp& warp = warps_[number_of_warp];
  const unsigned lane = pick(warp.ready);
  warp.ready &= ~(1u << lane);
  if (warp.ready == 0) ready_warps_ &= ~(1u << number_of_warp);
  return number_of_warp * warp_size + lane;
}

unsigned Multiprocessor::pick(unsigned bits) {
  switch (order_.kind) {
    case Order::Kind::forward:
      return static_cast<unsigned>(std::countr_zero(bits));
    case Order::Kind::reverse:
      return 31 - static_cast<unsigned>(std::countl_zero(bits));
    case Order::Kind::random:
      break;
  }
  // The first bit from a random one on; the constants are those of Knuth's MMIX generator.
  random_ = random_ * 6364136223846793005 + 1442695040888963407;
  const auto start = static_cast<unsigned>(random_ >> 59);
  return (start + static_cast<unsigned>(std::countr_zero(std::rotr(bits, static_cast<int>(start))))) % 32;
}

// Unwinds what a failed block has left on its fibers' stacks: locals are destroyed, and the stacks can be used again.
void Multiprocessor::cancel() {
  failure_ = std::current_exception();
  for (unsigned number = 0; number < size_; ++number) {
    if (threads_[number].fiber != nullptr) resume(number);
  }
  failure_ = nullptr;
  shared_.clear();
}

// When no thread is ready: the first that waits, and one of those it waits for in vain.
std::string Multiprocessor::why_stuck() const {
  unsigned number = 0;
  while (has_exited(number)) ++number;
  const Meeting& meeting = *threads_[number].meeting;
  const bool in_warp = meeting.operation != Operation::syncthreads;
  const std::string start = "block " + describe(blockIdx) + ", thread " + describe(threads_[number].index) +
                            " waits forever in " + describe(meeting) + ": ";
  const unsigned first = in_warp ? number / warp_size * warp_size : 0;
  const unsigned end = in_warp ? first + warp_size : size_;
  for (unsigned other = first; other < end; ++other) {
    if (in_warp && (meeting.mask >> (other - first) & 1) == 0) continue;
    if (other >= size_) return start + "there is no lane " + std::to_string(other - first);
    const std::string name = "thread " + describe(threads_[other].index);
    if (has_exited(other)) return start + name + " has exited";
    if (!meet_each_other(meeting, *threads_[other].meeting)) {
      return start + name + " waits in " + describe(*threads_[other].meeting);
    }
  }
  return start + "this is a bug of the stand-in";
}

// Fresh for every block, and of exactly its size, so that AddressSanitizer sees an access beyond it.
void* Multiprocessor::shared_memory(const void* declaration, std::size_t bytes) {
  std::size_t total = bytes;
  for (const SharedArray& array : shared_) {
    if (array.declaration == declaration) return array.memory.get();
    total += array.size;
  }
  if (total > most_shared_bytes) throw std::logic_error(position() + ": more than 48 KiB of shared memory");
  shared_.push_back({declaration, bytes, std::make_unique_for_overwrite<std::byte[]>(bytes)});
  std::memset(shared_.back().memory.get(), 0xFF, bytes);
  return shared_.back().memory.get();
}

}  // namespace

void set_order(std::string_view order) { chosen_order() = parse_order(order); }

void check_access(const void* pointer, std::size_t bytes) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0) return;
  std::ostringstream text;
  text << position() << ": an access of " << bytes << " bytes at " << pointer << ", which is not aligned to that";
  throw std::logic_error(text.str());
}

std::uint64_t meet(const Meeting& meeting) {
  if (running == nullptr) throw std::logic_error(position() + ": " + describe(meeting));
  return running->meet(meeting);
}

void* shared_memory(const void* declaration, std::size_t bytes) {
  if (running == nullptr) throw std::logic_error(position() + ": shared memory");
  return running->shared_memory(declaration, bytes);
}

std::uint64_t cuda_on_host_launches() { return launches; }

void run_grid(dim3 grid, dim3 block, void (*thread)(const void* arguments), const void* arguments) {
  if (running != nullptr) throw std::logic_error(position() + ": a launch");
  const auto within = [](dim3 size, unsigned x, unsigned y, unsigned z) {
    return size.x >= 1 && size.y >= 1 && size.z >= 1 && size.x <= x && size.y <= y && size.z <= z;
  };
  const bool valid = within(grid, 0x7fffffff, 65535, 65535) && within(block, 1024, 1024, 64) &&
                     std::uint64_t{block.x} * block.y * block.z <= most_threads;
  if (!valid) throw std::logic_error("invalid launch: grid " + describe(grid) + ", block " + describe(block));
  ++launches;
  thread_local Multiprocessor multiprocessor;
  multiprocessor.run(grid, block, thread, arguments);
}

}  // namespace cuda_on_host
