// The loops over a block of chains that all targets share: kicks, drifts, and the terms of a prior.
#include "trajectory.h"

#include <cmath>

#include "../formulas/exp.h"
#include "../formulas/log.h"
#include "../formulas/logistic.h"
#include "tile.h"

namespace fastvi {
namespace {

template <class T>
struct Found {
  T value, slope;
};

template <PriorKind kind, class T>
[[gnu::always_inline]] inline Found<T> prior_term(const PriorTerm<T>& term, T q) {
  if constexpr (kind == PriorKind::square) {
    const T distance = q - term.location;
    return {-term.weight * distance * distance, T(-2) * term.weight * distance};
  } else if constexpr (kind == PriorKind::magnitude) {
    const T distance = q - term.location;
    const T sign = distance > T(0) ? T(1) : (distance < T(0) ? T(-1) : distance);  // 0, and NaN
    return {-term.weight * std::fabs(distance), -term.weight * sign};
  } else if constexpr (kind == PriorKind::heavy_tail) {
    // With r the smaller of |x| and 1 / |x|, so that no square overflows: 1 + x^2 is (1 + r^2) max(1, |x|)^2.
    const T x = term.rate * (q - term.location), size = std::fabs(x);
    const bool is_far = size > T(1);
    const T r = is_far ? T(1) / size : size, square = r * r;
    const T logarithm = log1p_unit(square) + (is_far ? T(2) * log(size) : T(0));
    const T slope = size == infinity<T> ? T(0) : std::copysign(r / (T(1) + square), x);
    return {-term.weight * logarithm, T(-2) * term.weight * term.rate * slope};
  } else if constexpr (kind == PriorKind::exponential) {
    const T found = term.weight * exp(term.rate * q + term.location);
    return {term.slope * q - found, term.slope - term.rate * found};
  } else {
    const auto [logarithm, probability] = softplus_sigmoid(term.rate * q + term.location);
    return {term.slope * q - term.weight * logarithm, term.slope - term.weight * term.rate * probability};
  }
}

template <PriorKind kind, class T>
void add_term(const PriorTerm<T>& term, std::int64_t width, const T* position, T* gradient, double* value) {
  const T* const at = position + term.dimension * width;
  T* const slope = gradient + term.dimension * width;
  constexpr int n = lanes<T>;
  for (std::int64_t j = 0; j < width; j += n) {
    T found[lanes<T>];
#pragma omp simd
    for (int lane = 0; lane < n; ++lane) {
      const Found<T> own = prior_term<kind>(term, at[j + lane]);
      found[lane] = own.value;
      slope[j + lane] += own.slope;
    }
    for (int lane = 0; lane < n; ++lane) value[j + lane] += static_cast<double>(found[lane]);
  }
}

// `height` rows of the product, one vector of chains.
template <class T, int height>
[[gnu::always_inline]] inline void add_rows(std::int64_t dimensions, std::int64_t width, const T* step, const T* rows,
                                            const T* by, T* out) {
  Vector<T> sums[height] = {};
  for (std::int64_t e = 0; e < dimensions; ++e) {
    const Vector<T> values = load(by + e * width);
    for (int i = 0; i < height; ++i) sums[i] += (rows[i * dimensions + e] - Vector<T>{}) * values;
  }
  const Vector<T> steps = load(step);
  for (int i = 0; i < height; ++i) store(load(out + i * width) + steps * sums[i], out + i * width);
}

}  // namespace

template <class T>
void ChainLoops<T>::add_product(std::int64_t dimensions, std::int64_t width, const T* step, const T* matrix,
                                const T* by, T* out) {
  constexpr int most = 4;
  for (std::int64_t c = 0; c < width; c += lanes<T>) {
    for (std::int64_t d = 0; d < dimensions; d += most) {
      with_height<most>(dimensions - d, [&]<int height>(std::integral_constant<int, height>) {
        add_rows<T, height>(dimensions, width, step + c, matrix + d * dimensions, by + c, out + d * width + c);
      });
    }
  }
}

template <class T>
void ChainLoops<T>::add_scaled(std::int64_t dimensions, std::int64_t width, T factor, const T* step, const T* scale,
                               const T* by, T* out) {
  constexpr int n = lanes<T>;
  for (std::int64_t d = 0; d < dimensions; ++d) {
    const T own = scale == nullptr ? factor : factor * scale[d];
    for (std::int64_t c = d * width; c < (d + 1) * width; c += n) {
#pragma omp simd
      for (int lane = 0; lane < n; ++lane) out[c + lane] += own * step[c - d * width + lane] * by[c + lane];
    }
  }
}

template <class T>
void ChainLoops<T>::add(std::int64_t count, const T* from, T* to) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) to[i] += from[i];
}

template <class T>
void ChainLoops<T>::add_prior(std::span<const PriorTerm<T>> prior, std::int64_t width, const T* position, T* gradient,
                              double* value) {
  for (const PriorTerm<T>& term : prior) {
    switch (term.kind) {
      case PriorKind::square:
        add_term<PriorKind::square>(term, width, position, gradient, value);
        break;
      case PriorKind::magnitude:
        add_term<PriorKind::magnitude>(term, width, position, gradient, value);
        break;
      case PriorKind::heavy_tail:
        add_term<PriorKind::heavy_tail>(term, width, position, gradient, value);
        break;
      case PriorKind::exponential:
        add_term<PriorKind::exponential>(term, width, position, gradient, value);
        break;
      case PriorKind::logistic:
        add_term<PriorKind::logistic>(term, width, position, gradient, value);
        break;
    }
  }
}

template struct ChainLoops<float>;
template struct ChainLoops<double>;

}  // namespace fastvi
