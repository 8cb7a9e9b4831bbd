// Log-mean-exp over a column, its derivative and the effective sample size (Burda et al. 2016; Kong 1992), from sums of
// exponentials: how the sums of a column's pieces are put together, and what comes of the whole.
#pragma once

#include "exp.h"
#include "log.h"

namespace fastvi {

template <class T>
FASTVI_HD bool is_finite(T x) {
  return x - x == T(0);
}

// The exponentials of one piece of a column, relative to `shift`.
template <class T>
struct Piece {
  T maximum = -infinity<T>;
  T shift = T(0);
  T sum = T(0);
  T sum_of_squares = T(0);
};

// The shift is the maximum, where that is finite.
template <class T>
FASTVI_HD T shift_for(T maximum) {
  return is_finite(maximum) ? maximum : T(0);
}

// The factor that takes a piece's exponentials to the whole column's shift. An empty piece (all minus infinity) has
// sum 0 or NaN, which any finite factor keeps.
template <class T>
FASTVI_HD T rescale(const Piece<T>& piece, T shift) {
  return piece.maximum == -infinity<T> ? T(1) : exp(piece.shift - shift);
}

template <class T>
FASTVI_HD T log_mean(const Piece<T>& whole, T log_count) {
  return whole.shift + (log(whole.sum) - log_count);
}

template <class T>
FASTVI_HD T effective_size(const Piece<T>& whole) {
  return is_finite(whole.maximum) ? whole.sum * whole.sum / whole.sum_of_squares : not_a_number<T>;
}

// The factor that makes the exponentials `scale` times the softmax. Where no maximum is finite there are no weights; as
// the gradient of log-mean-exp, a column of minus infinities gives zeros, and a plus infinity leaves zeros to the rest.
template <class T>
FASTVI_HD T softmax_factor(const Piece<T>& whole, T scale, bool as_gradient) {
  const bool finite = is_finite(whole.maximum);
  if (!as_gradient && !finite) return not_a_number<T>;
  if (!finite && whole.maximum < T(0) && whole.sum == T(0)) return T(0);
  return scale / whole.sum;
}

}  // namespace fastvi
