// How operands of any strides are presented to the kernels: pure arithmetic on shapes and strides.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <string>

#include "../kernels.h"
#include "sizes.h"

namespace fastvi {

inline constexpr std::size_t max_operands = 8;

struct Layout {
  const char* name;
  std::span<const std::int64_t> shape, strides;
};

// Where a kernel puts an operand's gradient.
struct GradientPlan {
  Sizes shape;
  bool sums_samples;  // the operand has no samples of its own
  bool broadcast;     // what is left must be summed to the operand's shape
};

// Operands that broadcast over (samples, rows) and are summed, or drawn, over their last dimension.
struct RowPlan {
  Sizes leading;  // the result's shape, without the last dimension
  Extent extent;
  std::array<std::int64_t, max_operands> sample_strides, row_strides;
  // Operands that are copied first, contiguous, to a shape.
  std::array<bool, max_operands> copied{};
  std::array<Sizes, max_operands> copies;
  int split;  // how many leading axes make up the samples

  // Of an operand with the given layout, before it was copied.
  GradientPlan gradient(const Layout& operand) const;
};

// The common shape by NumPy's rules; std::invalid_argument names every operand where there is none.
Sizes broadcast_shapes(const char* operation, std::span<const Layout> operands);

// Strides of an array broadcast to `target`, one for each of its axes.
void expand_strides(const Layout& operand, std::span<const std::int64_t> target, std::int64_t* strides);

// `sample_rank` fixes how many leading axes are samples; without it axes are merged as far as the strides allow.
RowPlan plan_rows(const char* operation, std::span<const Layout> operands, std::optional<int> sample_rank = {});

// (outer, count, inner) and the shape without `dim` for a reduction over it, which is counted from the front
// afterwards.
AxisExtent plan_axis(const char* operation, const char* name, std::span<const std::int64_t> shape, std::int64_t& dim,
                     Sizes& rest);

}  // namespace fastvi
