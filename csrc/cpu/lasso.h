// Sparse codes: the Lasso of many rows against one dictionary, and a step of proximal gradient descent.
#pragma once

#include <cstdint>

namespace fastvi {

// Rows of min_z 1/2 |x - z D|^2 + threshold sum |z|, as they are told by correlations x D' and the Gram matrix D D'.
template <class T>
struct LassoRows {
  std::int64_t rows, atoms, rank;  // rank: no more atoms than this are ever independent
  const T* correlations;           // (rows, atoms), contiguous as all that follow
  const T* gram;                   // (atoms, atoms)
  double threshold;
  std::int64_t max_steps;   // of each row: atoms that are added
  T* codes;                 // (rows, atoms): where the row starts, and its solution
  std::int64_t* steps;      // (rows,): how many atoms were added
  std::int64_t* converged;  // (rows,): 1 where the conditions of the minimum hold to rounding, else 0
};

// A step from extrapolated codes y along `direction`, (x - y D) D', with Nesterov's momentum behind it.
template <class T>
struct ProximalStep {
  std::int64_t rows, atoms;
  const T* direction;         // (rows, atoms)
  const T *step, *threshold;  // (rows,): the step, and step times alpha
  T *codes, *extrapolated;    // (rows, atoms): before and after the step
  bool restarts;              // a row whose momentum leads uphill loses it (O'Donoghue and Candes 2015)
  T* momentum;                // (rows,): t of each row; null with `extrapolated`: the step is from the codes
};

template <class T>
struct SparseCodingKernels {
  // The same bits for any number of threads.
  static void lasso(const LassoRows<T>& problem);
  static void step(const ProximalStep<T>& step);
};

}  // namespace fastvi
