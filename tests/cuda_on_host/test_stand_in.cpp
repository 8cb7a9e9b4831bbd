// The stand-in's own tests: right kernels give the right results in every order, and each planted bug is caught. Given
// the name of a bug that AddressSanitizer is to report, the program runs only that.
#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "../native/check.h"
#include "cuda_on_host.h"
#include "kernels.h"

namespace fastvi::test {
namespace {

constexpr std::int64_t rows = 5, columns = 300;
const std::vector<std::string> orders{"forward", "reverse", "1", "2", "3"};

using RowSums = void (*)(Bug, const float*, std::int64_t, std::int64_t, float*);

// Whole numbers, so that sums are exact in any order.
const std::vector<float>& numbers() {
  static const std::vector<float> made = [] {
    std::vector<float> values(rows * columns);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * i % 1009);
    return values;
  }();
  return made;
}

std::vector<float> sums(RowSums kernel, Bug bug) {
  std::vector<float> out = unwritten<float>(rows);
  kernel(bug, numbers().data(), rows, columns, out.data());
  return out;
}

const std::vector<float>& expected_sums() {
  static const std::vector<float> made = [] {
    std::vector<float> values(rows);
    for (std::size_t i = 0; i < numbers().size(); ++i) values[i / columns] += numbers()[i];
    return values;
  }();
  return made;
}

std::vector<int> reversed(Bug bug) {
  std::vector<int> in(96), out(in.size());
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<int>(i);
  reversed_rows(bug, in.data(), 3, out.data());
  return out;
}

bool is_reversed(const std::vector<int>& out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (out[i] != static_cast<int>(i / 32 * 32 + 31 - i % 32)) return false;
  }
  return true;
}

// What `work` throws, which must be a std::logic_error.
template <class Work>
std::string thrown(const Work& work) {
  try {
    work();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "nothing";
}

// In every order `work` is refused with a message that has `parts`, and right kernels run as if nothing had been.
template <class Work>
void check_refused(const std::string& what, const Work& work, const std::vector<std::string>& parts) {
  for (const std::string& order : orders) {
    cuda_on_host::set_order(order);
    const std::string message = thrown(work);
    for (const std::string& part : parts) {
      check(message.find(part) != std::string::npos, what + ", order " + order + ": " + message);
    }
    check(same_bits(sums(block_sums, Bug::none), expected_sums()), what + ", order " + order + ": the next launch");
  }
}

template <class Work>
int orders_that_show(const Work& is_wrong) {
  int found = 0;
  for (const std::string& order : orders) {
    cuda_on_host::set_order(order);
    if (is_wrong()) ++found;
  }
  return found;
}

void check_sums() {
  for (const std::string& order : orders) {
    cuda_on_host::set_order(order);
    check(same_bits(sums(warp_sums, Bug::none), expected_sums()), "sums of a warp, order " + order);
    check(same_bits(sums(block_sums, Bug::none), expected_sums()), "sums of a block, order " + order);
    check(is_reversed(reversed(Bug::none)), "reversed rows, order " + order);
  }
}

void check_grid_stride() {
  std::vector<double> in(1001), out = unwritten<double>(in.size());
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<double>(i);
  doubled(in.data(), static_cast<std::int64_t>(in.size()), out.data());
  for (std::size_t i = 0; i < in.size(); ++i) check(out[i] == 2 * in[i], "a grid-stride loop");
}

void check_votes() {
  std::vector<unsigned> out(96);
  for (const std::string& order : orders) {
    cuda_on_host::set_order(order);
    votes(Bug::none, out.data());
    for (unsigned lane = 0; lane < 32; ++lane) {
      constexpr unsigned multiples_of_3 = 0x49249249;
      const unsigned ballot = multiples_of_3 & (lane < 16 ? 0xffffu : 0xffff0000u);
      const unsigned* mine = &out[3 * lane];
      check(mine[0] == ballot && mine[1] == 1 && mine[2] == 0, "votes of lane " + std::to_string(lane));
    }
  }
}

void check_shuffles() {
  std::vector<std::int64_t> in(32), out(128);
  for (std::size_t lane = 0; lane < 32; ++lane) in[lane] = (std::int64_t{1} << 40) + static_cast<std::int64_t>(lane);
  for (const std::string& order : orders) {
    cuda_on_host::set_order(order);
    for (int width = 1; width <= 32; width *= 2) {
      for (int operand = 0; operand < 32; ++operand) {
        shuffles(in.data(), operand, width, out.data());
        for (int lane = 0; lane < 32; ++lane) {
          const int first = lane / width * width, end = first + width;
          const int swapped = lane ^ operand;
          const std::array sources{first + operand % width, lane - operand < first ? lane : lane - operand,
                                   lane + operand >= end ? lane : lane + operand, swapped >= end ? lane : swapped};
          for (std::size_t i = 0; i < sources.size(); ++i) {
            const bool same = out[4 * static_cast<std::size_t>(lane) + i] == in[static_cast<std::size_t>(sources[i])];
            check(same, "shuffle " + std::to_string(i) + ", lane " + std::to_string(lane) + ", operand " +
                            std::to_string(operand) + ", width " + std::to_string(width));
          }
        }
      }
    }
  }
}

void check_os_threads() {
  std::vector<int> wrong(4);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&count] {
      for (int i = 0; i < 25; ++i) {
        if (!same_bits(sums(block_sums, Bug::none), expected_sums())) ++count;
        if (thrown([] { sums(block_sums, Bug::divergent_barrier); }) == "nothing") ++count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : wrong) check(count == 0, "launches from several OS threads");
}

void check_missing_barriers() {
  const auto wrong_sums = [] { return !same_bits(sums(block_sums, Bug::missing_barrier), expected_sums()); };
  check(orders_that_show(wrong_sums) > 0, "a missing __syncthreads is not seen");
  const auto wrong_rows = [] { return !is_reversed(reversed(Bug::missing_barrier)); };
  check(orders_that_show(wrong_rows) > 0, "a missing __syncwarp is not seen");
}

void check_unwritten_shared_memory() {
  const auto all_nan = [] {
    bool all = true;
    for (const float sum : sums(block_sums, Bug::unwritten_shared)) all = all && std::isnan(sum);
    return all;
  };
  check(orders_that_show(all_nan) == static_cast<int>(orders.size()), "shared memory that nobody wrote is not NaN");
}

void check_divergence() {
  const auto refused = [](const std::string& what, RowSums kernel, Bug bug, const std::vector<std::string>& parts) {
    check_refused(what, [&] { sums(kernel, bug); }, parts);
  };
  refused("divergent barrier", block_sums, Bug::divergent_barrier,
          {"block (0, 0, 0), thread (0, 0, 0) waits forever in __syncthreads (",
           "kernels.cu:", "thread (32, 0, 0) waits in __syncthreads ("});
  refused("barrier after an exit", block_sums, Bug::early_exit,
          {"thread (0, 0, 0) waits forever in __syncthreads", "thread (96, 0, 0) has exited"});
  refused("source outside of the mask", warp_sums, Bug::short_mask, {"block (0, 0, 0), thread (", "mask"});
  refused("mask without the lane", warp_sums, Bug::mask_without_itself, {"the mask does not name the lane itself"});
  refused("differing masks", warp_sums, Bug::differing_masks,
          {"thread (0, 0, 0) waits forever in __shfl_xor_sync with mask 0xffffffff of 4 bytes (",
           "thread (16, 0, 0) waits in __shfl_xor_sync with mask 0xffff8000"});
  refused("mixed collectives", warp_sums, Bug::mixed_collectives,
          {"waits forever in __shfl_xor_sync", "thread (5, 0, 0) waits in __ballot_sync"});
  refused("lanes that left the function", warp_sums, Bug::missing_lanes, {"thread (16, 0, 0) has exited"});
  std::vector<unsigned> out(96);
  check_refused("mixed votes", [&] { votes(Bug::mixed_collectives, out.data()); },
                {"thread (0, 0, 0) waits forever in __ballot_sync", "thread (7, 0, 0) waits in __any_sync"});
  check_refused("lane that has exited", [&] { votes(Bug::early_exit, out.data()); },
                {"thread (16, 0, 0) waits forever in __ballot_sync", "thread (20, 0, 0) has exited"});
}

void check_alignment() {
  const std::vector<std::string> parts{"block (0, 0, 0), thread (", "an access of 16 bytes"};
  check_refused("odd offset", [] { sums(block_sums, Bug::odd_offset); }, parts);
}

// The following kernels are for the host only.
void nothing() {}

void append_index(std::vector<unsigned>* order) { order->push_back(threadIdx.x); }

void partial_warp() { __syncwarp(); }

void bad_width() { __shfl_sync(0xffffffffu, 1.0f, 0, 12); }

void too_much_shared() {
  FASTVI_SHARED(double, half, 4096);
  FASTVI_SHARED(double, rest, 2049);
  half[0] = rest[0] = 0;
}

void nested() { FASTVI_LAUNCH(nothing, 1, 1, nullptr); }

void add_index(unsigned* sum) { *sum += threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z + 1000 * blockIdx.y; }

template <class T>
void instantiated(bool* fresh) {
  FASTVI_SHARED(T, first, 2);
  FASTVI_SHARED(T, second, 2);
  *fresh = *fresh && first[0] != first[0] && second[1] != second[1];
  first[0] = second[1] = 1;
  *fresh = *fresh && sizeof first == 2 * sizeof(T) && &first[0] != &second[0];
}

void both_instantiations(bool* fresh) {
  instantiated<float>(fresh);
  instantiated<double>(fresh);
}

// Counts those that live.
struct Counted {
  explicit Counted(int* count_) : count(count_) { ++*count; }
  ~Counted() { --*count; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  int* count;
};

void throws_while_others_wait(int* living) {
  const Counted local(living);
  if (threadIdx.x == 17) throw std::logic_error(std::to_string(*living) + " live");
  __syncthreads();
}

// The first launch of all: the environment has the say until set_order() is called.
void check_orders() {
  const auto order_of_threads = [] {
    std::vector<unsigned> order;
    FASTVI_LAUNCH(append_index, 1, 100, nullptr, &order);
    return order;
  };
  std::vector<unsigned> indices(100);
  std::iota(indices.begin(), indices.end(), 0u);
  setenv("FASTVI_CUDA_ON_HOST_ORDER", "reverse", 1);
  check(order_of_threads() == std::vector<unsigned>(indices.rbegin(), indices.rend()), "order of the environment");
  cuda_on_host::set_order("forward");
  check(order_of_threads() == indices, "forward order");
  cuda_on_host::set_order("1");
  const std::vector<unsigned> first = order_of_threads();
  check(order_of_threads() == first, "a seed's order is the same in every launch");
  check(first != indices && std::is_permutation(first.begin(), first.end(), indices.begin()), "random order");
  cuda_on_host::set_order("2");
  check(order_of_threads() != first, "another seed, another order");
}

void check_launches() {
  const auto launch = [](dim3 grid, dim3 block) { FASTVI_LAUNCH(nothing, grid, block, nullptr); };
  launch({2, 3, 4}, {16, 2, 32});
  for (const auto& [grid, block] : {std::pair<dim3, dim3>{0, 1},
                                    {1, 0},
                                    {{1, 65536}, 1},
                                    {{1, 1, 65536}, 1},
                                    {0x80000000u, 1},
                                    {1, 1025},
                                    {1, {32, 33}},
                                    {1, {1, 1, 65}}}) {
    check_refused("launch", [&] { launch(grid, block); }, {"invalid launch"});
  }
  check_refused("launch in a kernel", [] { FASTVI_LAUNCH(nested, 1, 1, nullptr); }, {"thread (0, 0, 0): a launch"});
  check_refused("partial warp", [] { FASTVI_LAUNCH(partial_warp, 1, 40, nullptr); },
                {"thread (32, 0, 0) waits forever", "there is no lane 8"});
  check_refused("width", [] { FASTVI_LAUNCH(bad_width, 1, 32, nullptr); }, {"width"});
  check_refused("shared memory", [] { FASTVI_LAUNCH(too_much_shared, 1, 1, nullptr); }, {"more than 48 KiB"});
  check_refused("barrier on the host", [] { __syncthreads(); }, {"outside of a kernel: __syncthreads"});
  check_refused("access on the host", [] { cuda_on_host::check_access(reinterpret_cast<void*>(8), 16); },
                {"outside of a kernel: an access of 16 bytes"});
  check(thrown([] { cuda_on_host::set_order("sideways"); }).find("sideways") != std::string::npos, "order");

  unsigned sum = 0;
  FASTVI_LAUNCH(add_index, dim3(1, 2), dim3(3, 2, 2), nullptr, &sum);
  check(sum == 2 * (4 * 3 + 6 * 10 + 6 * 100) + 12 * 1000, "indices");

  int evaluations = 0;
  const auto pointer = [&] {
    ++evaluations;
    return &sum;
  };
  FASTVI_LAUNCH(add_index, 2, 2, nullptr, pointer());
  check(evaluations == 1, "arguments are evaluated once");

  bool fresh = true;
  FASTVI_LAUNCH(both_instantiations, 3, 1, nullptr, &fresh);
  check(fresh, "shared memory is each block's, declaration's and instantiation's own");
}

void check_clean_up() {
  for (const std::string& order : orders) {
    cuda_on_host::set_order(order);
    int living = 0;
    const std::string message = thrown([&] { FASTVI_LAUNCH(throws_while_others_wait, 2, 64, nullptr, &living); });
    check(message.ends_with(" live") && living == 0, "clean-up of a failed block, order " + order + ": " + message);
  }
}

// Whether the name is known; AddressSanitizer does not let it return if it is.
bool run_overrun(const std::string& name) {
  if (name == "shared_overrun") sums(block_sums, Bug::shared_overrun);
  if (name == "off_by_one") sums(block_sums, Bug::off_by_one);
  return name == "shared_overrun" || name == "off_by_one";
}

}  // namespace
}  // namespace fastvi::test

int main(int count, char** arguments) {
  using namespace fastvi::test;
  if (count == 2) return run_overrun(arguments[1]) ? 0 : 2;
  check_orders();
  check_sums();
  check_grid_stride();
  check_votes();
  check_shuffles();
  check_os_threads();
  check_missing_barriers();
  check_unwritten_shared_memory();
  check_divergence();
  check_alignment();
  check_launches();
  check_clean_up();
  return report("cuda_on_host");
}
