// Matrix products of few rows whose factors are rounded to bfloat16, with sums in float: twice as many a cycle as those
// of float, on processors with instructions for them. The rounding is part of the packing. Sums are in the order of the
// inner dimension, two at a time, as in product.h. The instructions take numbers below 2^-126 for zero.
#pragma once

#include "product.h"

namespace fastvi {

// Whether this build and this processor have the instructions.
bool has_narrow_products();

// Writes left right to `out`, contiguous (left.rows, right.columns); left.columns is right.rows. Only for processors
// that have the instructions.
void multiply_narrow(const Matrix<float>& left, const Matrix<float>& right, float* out);

}  // namespace fastvi
