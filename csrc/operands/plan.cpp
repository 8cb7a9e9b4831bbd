#include "plan.h"

#include <limits>
#include <stdexcept>

namespace fastvi {
namespace {

using Strides = std::array<std::array<std::int64_t, max_rank>, max_operands>;

// Neighbouring axes [begin, end) of all operands that each of them steps through evenly count as one; axes of size one
// as none. What is left: sizes, and strides for each operand.
struct Merged {
  int rank = 0;
  std::array<std::int64_t, max_rank> sizes;
  Strides strides;

  Merged(const Sizes& shape, int begin, int end, std::size_t operands, const Strides& of_axes) {
    for (int axis = begin; axis < end; ++axis) {
      const std::int64_t size = shape[axis];
      const auto a = static_cast<std::size_t>(axis), last = static_cast<std::size_t>(rank - 1);
      if (size == 1) continue;
      bool joins = rank > 0;
      for (std::size_t i = 0; joins && i < operands; ++i) joins = strides[i][last] == of_axes[i][a] * size;
      if (joins) {
        sizes[last] *= size;
      } else {
        sizes[last + 1] = size;
        ++rank;
      }
      for (std::size_t i = 0; i < operands; ++i) strides[i][joins ? last : last + 1] = of_axes[i][a];
    }
  }

  // The stride of the axis that is `back` from the end, 0 where there is none.
  std::int64_t stride(std::size_t operand, int back) const {
    return rank > back ? strides[operand][static_cast<std::size_t>(rank - 1 - back)] : 0;
  }
  std::int64_t size(int back) const { return rank > back ? sizes[static_cast<std::size_t>(rank - 1 - back)] : 1; }
};

void contiguous_strides(std::span<const std::int64_t> shape, std::int64_t* strides) {
  std::int64_t stride = 1;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = stride;
    stride *= std::max<std::int64_t>(shape[axis], 1);
  }
}

// How many leading axes make up the samples.
int split_of(const Sizes& leading, std::int64_t samples, std::int64_t rows) {
  if (samples == 1) return 0;
  int split = 1;
  while (product(leading.span().first(static_cast<std::size_t>(split))) != samples ||
         product(leading.span().subspan(static_cast<std::size_t>(split))) != rows) {
    ++split;
  }
  return split;
}

}  // namespace

Sizes broadcast_shapes(const char* operation, std::span<const Layout> operands) {
  std::size_t rank = 0;
  for (const Layout& operand : operands) rank = std::max(rank, operand.shape.size());
  Sizes result;
  for (std::size_t axis = 0; axis < rank; ++axis) result.append(1);
  for (const Layout& operand : operands) {
    const std::size_t front = rank - operand.shape.size();
    for (std::size_t axis = 0; axis < operand.shape.size(); ++axis) {
      const std::int64_t size = operand.shape[axis];
      std::int64_t& common = result[static_cast<int>(front + axis)];
      if (size == 1 || size == common) continue;
      if (common != 1) {
        std::string given;
        for (const Layout& each : operands) {
          given += (given.empty() ? "" : ", ") + std::string(each.name) + " " + to_string(each.shape);
        }
        throw std::invalid_argument(std::string(operation) + ": shapes do not broadcast: got " + given);
      }
      common = size;
    }
  }
  if (product(result) == std::numeric_limits<std::int64_t>::max()) {  // where a product stops that would be larger
    throw std::invalid_argument(std::string(operation) + ": shapes broadcast to " + to_string(result) +
                                ", expected fewer than 2^63 - 1 elements");
  }
  return result;
}

void expand_strides(const Layout& operand, std::span<const std::int64_t> target, std::int64_t* strides) {
  const std::size_t front = target.size() - operand.shape.size();
  std::fill_n(strides, front, 0);
  for (std::size_t axis = 0; axis < operand.shape.size(); ++axis) {
    strides[front + axis] = operand.shape[axis] == 1 ? 0 : operand.strides[axis];
  }
}

RowPlan plan_rows(const char* operation, std::span<const Layout> operands, std::optional<int> sample_rank) {
  for (const Layout& operand : operands) {
    if (operand.shape.empty()) {
      throw std::invalid_argument(std::string(operation) + ": " + operand.name +
                                  " has no dimension; expected the event in the last one");
    }
  }
  RowPlan plan;
  const Sizes full = broadcast_shapes(operation, operands);
  const int rank = full.rank - 1;
  const std::int64_t columns = full[rank];
  plan.leading = Sizes(full.span().first(static_cast<std::size_t>(rank)));

  Strides strides;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const Layout& operand = operands[i];
    const auto leading = operand.shape.first(operand.shape.size() - 1);
    if (operand.shape.back() == columns && (columns <= 1 || operand.strides.back() == 1)) {
      expand_strides({operand.name, leading, operand.strides.first(leading.size())}, plan.leading, strides[i].data());
      continue;
    }
    // The event must be contiguous: it is copied, but the rest is broadcast.
    plan.copied[i] = true;
    plan.copies[i] = Sizes(leading);
    plan.copies[i].append(columns);
    std::array<std::int64_t, max_rank> own;
    contiguous_strides(plan.copies[i], own.data());
    expand_strides({operand.name, leading, std::span<const std::int64_t>(own).first(leading.size())}, plan.leading,
                   strides[i].data());
  }

  const int samples_end = sample_rank.value_or(0);
  const Merged outer(plan.leading, 0, samples_end, operands.size(), strides);
  const Merged inner(plan.leading, samples_end, rank, operands.size(), strides);
  const auto axes = [&](int begin, int end) {
    return product(plan.leading.span().subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)));
  };
  if (sample_rank ? outer.rank <= 1 && inner.rank <= 1 : inner.rank <= 2) {
    plan.extent = sample_rank ? Extent{axes(0, samples_end), axes(samples_end, rank), columns}
                              : Extent{inner.size(1), inner.size(0), columns};
    for (std::size_t i = 0; i < operands.size(); ++i) {
      plan.sample_strides[i] = sample_rank ? outer.stride(i, 0) : inner.stride(i, 1);
      plan.row_strides[i] = inner.stride(i, 0);
    }
  } else {  // rare: everything that is not already laid out as the result is copied
    std::array<std::int64_t, max_rank> dense;
    contiguous_strides(full, dense.data());
    plan.extent = {axes(0, samples_end), axes(samples_end, rank), columns};
    for (std::size_t i = 0; i < operands.size(); ++i) {
      if (!std::equal(strides[i].begin(), strides[i].begin() + rank, dense.begin())) {
        plan.copied[i] = true;
        plan.copies[i] = full;
      }
      plan.sample_strides[i] = plan.extent.rows * columns;
      plan.row_strides[i] = columns;
    }
  }
  plan.split = sample_rank ? *sample_rank : split_of(plan.leading, plan.extent.samples, plan.extent.rows);
  return plan;
}

GradientPlan RowPlan::gradient(const Layout& operand) const {
  const int front = leading.rank + 1 - static_cast<int>(operand.shape.size());
  const auto own_samples = operand.shape.first(static_cast<std::size_t>(std::max(split - front, 0)));
  GradientPlan plan;
  plan.sums_samples = extent.samples != 1 && product(own_samples) == 1;
  for (int axis = 0; axis < leading.rank; ++axis) {
    plan.shape.append(plan.sums_samples && axis < split ? 1 : leading[axis]);
  }
  plan.shape.append(extent.columns);
  plan.broadcast = !equal(plan.shape, operand.shape);
  return plan;
}

AxisExtent plan_axis(const char* operation, const char* name, std::span<const std::int64_t> shape, std::int64_t& dim,
                     Sizes& rest) {
  const auto rank = static_cast<std::int64_t>(shape.size());
  if (dim < -rank || dim >= rank) {
    throw std::invalid_argument(std::string(operation) + ": dim is " + std::to_string(dim) + ", expected one of the " +
                                std::to_string(rank) + " dimensions of " + to_string(shape));
  }
  if (dim < 0) dim += rank;
  const auto axis = static_cast<std::size_t>(dim);
  if (shape[axis] == 0) {
    throw std::invalid_argument(std::string(operation) + ": " + name + " has shape " + to_string(shape) +
                                ", expected elements along dimension " + std::to_string(dim));
  }
  rest = Sizes(shape.first(axis));
  for (const std::int64_t size : shape.subspan(axis + 1)) rest.append(size);
  return {product(shape.first(axis)), shape[axis], product(shape.subspan(axis + 1))};
}

}  // namespace fastvi
