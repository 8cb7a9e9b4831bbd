#include "axis.cuh"

namespace fastvi {
namespace {

// A column's sum, or those of its parts, (parts, columns), where `partial` is not null.
template <class S>
__global__ void __launch_bounds__(block_threads)
    axis_sum_kernel(Sharing sharing, const S* x, const S* weights, S* out, ComputeType<S>* partial) {
  using T = ComputeType<S>;
  for (std::int64_t item = blockIdx.x; item < sharing.blocks; item += gridDim.x) {
    const Slice slice(sharing, item);
    LongSum<T> sum;
    slice.for_each([&](std::int64_t i, std::int64_t k) {
      const T value = static_cast<T>(x[i]);
      sum.add(weights == nullptr ? value : static_cast<T>(weights[k]) * value);
    });
    const T total = slice.join(sum.result(), [](T a, T b) { return a + b; });
    if (!slice.writes()) continue;
    if (partial == nullptr) {
      out[slice.column] = S(total);
    } else {
      partial[slice.part * sharing.all_columns + slice.column] = total;
    }
  }
}

}  // namespace

template <class S>
void SumKernels<S>::axis_sum(const AxisExtent& extent, const S* x, const S* weights, S* out) {
  using T = ComputeType<S>;
  const DeviceGuard guard;
  const Sharing sharing(extent);
  T* const partial = sharing.parts == 1 ? nullptr : scratch<T>(sharing.parts * sharing.all_columns);
  launch(axis_sum_kernel<S>, sharing.blocks, 1, sharing, x, weights, out, partial);
  if (partial != nullptr) add_parts(sharing.all_columns, sharing.parts, partial, std::array<S*, 1>{{out}});
}

template struct SumKernels<float>;
template struct SumKernels<double>;
template struct SumKernels<BFloat16>;
template struct SumKernels<Float16>;

}  // namespace fastvi
