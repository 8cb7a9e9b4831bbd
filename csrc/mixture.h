// One pass of expectation-maximisation over rows: log densities of all components, log-sum-exp over components,
// responsibilities, and sums of moments weighted by them, on every backend. Source: Dempster, Laird and Rubin 1977.
#pragma once

#include <cstdint>

namespace fastvi {

// The log density of component k at y = x - shift:
//   linear     offset[k] + sum_d location[k, d] y[d]
//   diagonal   offset[k] - 1/2 sum_d (scale[k, d] y[d] - location[k, d])^2
//   tied       offset[k] - 1/2 sum_e (sum_d y[d] scale[d, e] - location[k, e])^2, scale upper triangular
//   full       the same with scale[k, d, e]
enum class MixtureKind : int { linear, diagonal, tied, full };
inline constexpr int num_mixture_kinds = 4;

// What is summed beside the components' counts, each times weight and responsibility: y, y and its squares, or y and
// its products.
enum class MixtureMoments : int { none, first, squares, products };
inline constexpr int num_mixture_moments = 4;

template <class T>
struct MixturePass {
  MixtureKind kind;
  MixtureMoments moments;
  std::int64_t rows, columns, components;
  const T* x;
  std::int64_t row_stride, column_stride;
  const T *shift, *offset, *location, *scale;  // contiguous
  const T* weights;                            // (rows,), null: ones
  const T* given;                              // (rows, components), null: responsibilities are those of the densities

  // Contiguous (rows,) or (rows, components), null where not wanted; responsibilities do not contain the weights.
  T *log_likelihood, *responsibilities, *log_densities;

  // Added to: the sum of weight times log-likelihood over rows, in which a row of weight 0 has no part, nothing where
  // responsibilities are given; (components,), (components, columns), and (components, columns) or (components,
  // columns, columns).
  double *total, *count, *first, *second;
};

// All sums have the same bits for any number of threads. Rows are taken in groups that fit the caches: memory does not
// grow with them. Each backend has this for a module of its own, as the kernels of kernels.h.
template <class T>
struct MixtureKernels {
  static void pass(const MixturePass<T>& pass);
};

}  // namespace fastvi
