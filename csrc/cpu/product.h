// Matrix products of few rows, where calling a library costs as much as its arithmetic. Each number of the result is
// summed in the order of the inner dimension by one thread, so that it depends neither on the number of threads nor on
// the other rows, which libraries do not promise.
#pragma once

#include <cstdint>

namespace fastvi {

// A matrix in memory; one of its strides is one.
template <class T>
struct Matrix {
  const T* data;
  std::int64_t rows, columns, row_stride, column_stride;

  // Contiguous rows.
  Matrix(const T* first, std::int64_t num_rows, std::int64_t num_columns)
      : Matrix(first, num_rows, num_columns, num_columns, 1) {}
  Matrix(const T* first, std::int64_t num_rows, std::int64_t num_columns, std::int64_t by_row, std::int64_t by_column)
      : data(first), rows(num_rows), columns(num_columns), row_stride(by_row), column_stride(by_column) {}

  Matrix transposed() const { return {data, columns, rows, column_stride, row_stride}; }
};

// What a product and a sum of two numbers take, about.
inline constexpr double nanoseconds_per_product = 0.02;

// Writes left right to `out`, contiguous (left.rows, right.columns); left.columns is right.rows.
template <class T>
void multiply(const Matrix<T>& left, const Matrix<T>& right, T* out);

}  // namespace fastvi
