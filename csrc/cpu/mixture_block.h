// What the two halves of a pass over a mixture share: a block of rows turned into columns.
#pragma once

#include <cstdint>

#include "../mixture.h"
#include "aligned.h"
#include "tile.h"
#include "vector.h"

namespace fastvi {

// The rows of one block: y[d] and l[k] have a number for each row, zeros behind the last one.
// `whitened` is for tied covariances, as large as y.
template <class T>
struct Block {
  std::int64_t start, count, stride, padded;
  T *y, *l, *weight, *whitened;

  T* column(std::int64_t d) const { return y + d * stride; }
  T* component(std::int64_t k) const { return l + k * stride; }
};

// Adds the sums over a group of blocks, whose l are weights times responsibilities, to those of the pass. Where threads
// share the sums, `scratch` has scratch_size numbers for each of them.
template <class T>
std::int64_t scratch_size(const MixturePass<T>& pass);
template <class T>
void add_sums(const MixturePass<T>& pass, const Block<T>* blocks, std::int64_t count, T* scratch, bool shares);

}  // namespace fastvi
