#include "axis.cuh"

namespace fastvi {
namespace {

// A column's sum, or those of its pieces, (pieces, columns), where `partial` is not null.
template <class S>
__global__ void __launch_bounds__(block_threads)
    axis_sum_kernel(AxisExtent extent, Sharing sharing, std::int64_t blocks, const S* x, const S* weights, S* out,
                    ComputeType<S>* partial) {
  using T = ComputeType<S>;
  for (std::int64_t item = blockIdx.x; item < blocks; item += gridDim.x) {
    const Slice slice(extent, sharing, item);
    LongSum<T> sum;
    slice.for_each_place(extent, sharing, [&](std::int64_t i, std::int64_t k) {
      const T value = static_cast<T>(x[i]);
      sum.add(weights == nullptr ? value : static_cast<T>(weights[k]) * value);
    });
    const T total = join_slices(sharing, slice, sum.result(), [](T a, T b) { return a + b; });
    if (!slice.inside || slice.slice != 0) continue;
    if (partial == nullptr) {
      out[slice.column] = S(total);
    } else {
      partial[slice.piece * extent.outer * extent.inner + slice.column] = total;
    }
  }
}

}  // namespace

template <class S>
void SumKernels<S>::axis_sum(const AxisExtent& extent, const S* x, const S* weights, S* out) {
  using T = ComputeType<S>;
  const DeviceGuard guard;
  const Sharing sharing(extent);
  const std::int64_t columns = extent.outer * extent.inner, blocks = sharing.blocks(extent);
  if (columns == 0) return;
  T* const partial = sharing.pieces == 1 ? nullptr : scratch<T>(sharing.pieces * columns);
  launch(axis_sum_kernel<S>, blocks, 1, extent, sharing, blocks, x, weights, out, partial);
  if (partial != nullptr) add_parts(columns, sharing.pieces, partial, std::array<S*, 1>{{out}});
}

template struct SumKernels<float>;
template struct SumKernels<double>;
template struct SumKernels<BFloat16>;
template struct SumKernels<Float16>;

}  // namespace fastvi
