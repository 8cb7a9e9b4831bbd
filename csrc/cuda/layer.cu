#include "../formulas/activation.h"
#include "rows.cuh"

namespace fastvi {
namespace {

// What is null among the rows that are read is another row, which nobody looks at.
template <class Formula, class T>
__global__ void __launch_bounds__(block_threads, 3)
    activate_kernel(std::int64_t rows, std::int64_t columns, T* product, const T* bias, T* slope, T* copy,
                    std::int64_t pieces) {
  const bool is_biased = bias != nullptr;
  for (std::int64_t item = WarpGroup::first(); item < rows * pieces; item += WarpGroup::count()) {
    const RowPiece piece(item, pieces, columns);
    T* const own = product + piece.start;
    const std::array<const T*, 2> in{own, bias == nullptr ? own : bias + piece.first};
    const std::array<T*, 3> out{own, slope == nullptr ? nullptr : slope + piece.start,
                                copy == nullptr ? nullptr : copy + piece.start};
    map_columns<T>(in, out, piece.count, WarpGroup::lane(), WarpGroup::threads,
                   [&](std::int64_t, const std::array<T, 2>& read) -> std::array<T, 3> {
                     const T x = is_biased ? read[0] + read[1] : read[0];
                     if constexpr (Formula::keeps_slope) {
                       const ValueAndSlope<T> found = Formula::value_and_slope(x);
                       return {found.value, found.slope, found.value};
                     } else {
                       const T value = Formula::value(x);
                       return {value, T(0), value};
                     }
                   });
  }
}

template <class Formula, class T>
__global__ void __launch_bounds__(block_threads)
    layer_gradient_kernel(std::int64_t rows, std::int64_t columns, T* gradient, const T* value, const T* slope,
                          const T* scale, T* scaled, std::int64_t pieces) {
  for (std::int64_t item = WarpGroup::first(); item < rows * pieces; item += WarpGroup::count()) {
    const RowPiece piece(item, pieces, columns);
    const T by = scale == nullptr ? T(1) : scale[piece.row];
    T* const own = gradient + piece.start;
    const std::array<const T*, 3> in{own, value + piece.start, (Formula::keeps_slope ? slope : value) + piece.start};
    const std::array<T*, 2> out{own, scaled == nullptr ? nullptr : scaled + piece.start};
    map_columns<T>(in, out, piece.count, WarpGroup::lane(), WarpGroup::threads,
                   [&](std::int64_t, const std::array<T, 3>& read) -> std::array<T, 2> {
                     if constexpr (Formula::keeps_slope) {
                       return {by * read[0] * read[2], by * read[1]};
                     } else {
                       return {by * read[0] * Formula::slope(read[1]), by * read[1]};
                     }
                   });
  }
}

}  // namespace

template <class T>
void LayerKernels<T>::activate(std::int64_t rows, std::int64_t columns, Activation activation, T* product,
                               const T* bias, T* slope, T* copy) {
  const DeviceGuard guard;
  const std::int64_t pieces = RowPiece::of_row(columns);
  with_activation<T>(activation, [&]<class Formula> {
    launch(activate_kernel<Formula, T>, rows * pieces, WarpGroup::per_block, rows, columns, product, bias, slope, copy,
           pieces);
  });
}

template <class T>
void LayerKernels<T>::gradient(std::int64_t rows, std::int64_t columns, Activation activation, T* gradient,
                               const T* value, const T* slope, const T* scale, T* scaled, T* bias_gradient) {
  const DeviceGuard guard;
  const std::int64_t pieces = RowPiece::of_row(columns);
  with_activation<T>(activation, [&]<class Formula> {
    launch(layer_gradient_kernel<Formula, T>, rows * pieces, WarpGroup::per_block, rows, columns, gradient, value,
           slope, scale, scaled, pieces);
  });
  if (bias_gradient != nullptr) SumKernels<T>::axis_sum({1, rows, columns}, gradient, nullptr, bias_gradient);
}

template struct LayerKernels<float>;
template struct LayerKernels<double>;

}  // namespace fastvi
