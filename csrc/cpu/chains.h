// Many Markov chains at once: log densities and their gradients, and whole trajectories of leapfrog steps (Neal 2011),
// for densities that are a sum over rows of data plus a sum over the terms of a prior.
#pragma once

#include <cstdint>
#include <span>

namespace fastvi {

// What a term adds to the log density at q, one number of the position:
//   square       -weight (q - location)^2
//   magnitude    -weight |q - location|
//   heavy_tail   -weight log(1 + (rate (q - location))^2)
//   exponential  slope q - weight exp(rate q + location)
//   logistic     slope q - weight log(1 + exp(rate q + location))
enum class PriorKind : int { square, magnitude, heavy_tail, exponential, logistic };
inline constexpr int num_prior_kinds = 5;

template <class T>
struct PriorTerm {
  PriorKind kind;
  std::int64_t dimension;
  T location, rate, weight, slope;
};

// All arrays are contiguous, (chains, dimensions) but for what is said of them.
template <class T>
struct ChainTrajectory {
  std::int64_t chains, dimensions;
  std::int64_t num_steps;  // 0: the log density where the chains are
  const T *position, *momentum, *gradient;
  const T* step_size;  // one number, or one a chain
  bool step_per_chain;
  const T* inverse_mass;  // (dimensions,), null: ones
  bool dense_mass;        // the inverse mass is (dimensions, dimensions), symmetric
  std::span<const PriorTerm<T>> prior;
  double constant;  // of the log density

  T *end_position, *end_momentum;  // null without steps
  T *log_density, *end_gradient;   // log_density (chains,)
};

enum class Regression : int { normal, logistic, poisson };
inline constexpr int num_regressions = 3;

inline constexpr std::int64_t design_tile = 8;

// The log-likelihood of outcomes y by linear predictors eta_n = offset_n + sum_d x_nd (q_d - shift_d), the sum of
// weight_n times
//   normal    -(y - eta)^2 / 2
//   logistic  y eta - log(1 + exp(eta))
//   poisson   y eta - exp(eta)
template <class T>
struct RegressionRows {
  Regression kind;
  std::int64_t rows, columns;
  const T* design;   // (ceil(rows / 8), columns, 8): tiles of eight rows, the last one filled up with zeros
  const T* outcome;  // (rows,)
  const T *weight, *offset, *shift;  // (rows,), (rows,), (columns,), each null where there are none

  // Normal only: whether the position's last number is the logarithm s of the noise's standard deviation, of which the
  // columns know nothing. The log-likelihood is exp(-2 s) (the above - square / 2) - count s then.
  bool has_log_scale;
  double count, square;
};

// The log-likelihood of rows x under a mixture of diagonal Gaussians, the sum of weight_n log p(x_n). The position is
// the means (components, columns), the logarithms of the standard deviations, likewise, and the logits of the
// components' probabilities but for the last, whose logit is 0.
template <class T>
struct MixtureRows {
  std::int64_t rows, columns, components;
  const T *x, *weight;     // (rows, columns); (rows,), null where there are none
  const T* concentration;  // (components,): of a Dirichlet prior of the probabilities, whose logits are the position's;
                           // null where there is none
};

// A chain's results do not depend on the chains beside it, nor on the number of threads.
template <class T>
struct ChainKernels {
  static void follow(const ChainTrajectory<T>& trajectory, const RegressionRows<T>& rows);
  static void follow(const ChainTrajectory<T>& trajectory, const MixtureRows<T>& rows);
};

}  // namespace fastvi
