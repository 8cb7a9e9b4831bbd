#include "columns.cuh"
#include "launch.cuh"
#include "noise.cuh"
#include "rows.cuh"

namespace fastvi {
namespace {

template <class S>
__global__ void __launch_bounds__(block_threads) standard_normal_kernel(S* out, std::int64_t count, Seed seed) {
  const std::uint64_t key = read_seed(seed);
  for (std::int64_t quad = ThreadGroup::first(); 4 * quad < count; quad += ThreadGroup::count()) {
    ComputeType<S> draws[4];
    quad_of_normals(flat_counter(static_cast<std::uint64_t>(quad)), key, draws);
    store_quad(draws, count - 4 * quad, out + 4 * quad);
  }
}

template <class S>
__global__ void __launch_bounds__(block_threads)
    normal_noise_kernel(S* out, Extent extent, Seed seed, std::int64_t row_offset) {
  const std::uint64_t key = read_seed(seed);
  const std::int64_t quads = ceil_divide(extent.columns, 4), items = extent.samples * extent.rows * quads;
  for (std::int64_t item = ThreadGroup::first(); item < items; item += ThreadGroup::count()) {
    const Place at(item, quads), place(at.outer, extent.rows);
    ComputeType<S> noise[4];
    sample_noise(key, place.outer, place.inner + row_offset, at.inner, noise);
    store_quad(noise, extent.columns - 4 * at.inner, out + at.outer * extent.columns + 4 * at.inner);
  }
}

__global__ void __launch_bounds__(block_threads)
    philox_words_kernel(std::uint32_t* out, std::int64_t quads, Seed seed) {
  for (std::int64_t i = ThreadGroup::first(); i < quads; i += ThreadGroup::count()) {
    const PhiloxBlock block = philox(flat_counter(static_cast<std::uint64_t>(i)), read_seed(seed));
    for (int w = 0; w < 4; ++w) out[4 * i + w] = block.word[w];
  }
}

}  // namespace

template <class S>
void NoiseKernels<S>::standard_normal(S* out, std::int64_t count, Seed seed) {
  const DeviceGuard guard;
  launch(standard_normal_kernel<S>, ceil_divide(count, 4), ThreadGroup::per_block, out, count, seed);
}

template <class S>
void NoiseKernels<S>::normal_noise(S* out, const Extent& extent, Seed seed, std::int64_t row_offset) {
  const DeviceGuard guard;
  launch(normal_noise_kernel<S>, extent.samples * extent.rows * ceil_divide(extent.columns, 4), ThreadGroup::per_block,
         out, extent, seed, row_offset);
}

void philox_words(std::uint32_t* out, std::int64_t quads, Seed seed) {
  const DeviceGuard guard;
  launch(philox_words_kernel, quads, ThreadGroup::per_block, out, quads, seed);
}

template struct NoiseKernels<float>;
template struct NoiseKernels<double>;
template struct NoiseKernels<BFloat16>;
template struct NoiseKernels<Float16>;

}  // namespace fastvi
