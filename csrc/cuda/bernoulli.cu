#include "bernoulli.cuh"

namespace fastvi {
namespace {

template <class Group, bool keep_residual, class S>
__global__ void __launch_bounds__(block_threads, sizeof(S) == 8 ? 1 : 4)
    bernoulli_epilogue_kernel(std::int64_t rows, S* logits, const S* bias, RowView<const S> x, RowSums<S, 1> sums) {
  using T = ComputeType<S>;
  sums.template of_group<Group>([&](const RowPart& part) {
    const Place place(part.row, rows);
    S* const own = logits + part.row * sums.columns + part.first;
    LogProbSum<T> sum;
    const auto residual = [&](std::int64_t d, const std::array<T, 2>& values) {
      const T logit = bias == nullptr ? values[0] : values[0] + static_cast<T>(bias[part.first + d]);
      const BernoulliTerm<T> term = bernoulli_term(values[1], logit);
      sum.add_term(term);
      return std::array<T, 1>{{bernoulli_residual(values[1], logit, term.exponential)}};
    };
    const std::array<const S*, 2> in{{own, x.row(place.outer, place.inner) + part.first}};
    if constexpr (keep_residual) {
      map_columns<S>(in, std::array<S*, 1>{{own}}, part.count, Group::lane(), Group::threads, residual);
    } else {
      for_each_column<S>(in, part.count, Group::lane(), Group::threads, residual);
    }
    return std::array<T, 1>{{sum.result()}};
  });
}

}  // namespace

template <class S>
void BernoulliHeadKernels<S>::bernoulli_epilogue(const Extent& extent, S* logits, const S* bias,
                                                 const RowView<const S>& x, bool keep_residual, S* out) {
  sum_rows<S, 1>(extent.samples * extent.rows, extent.columns, {{out}}, [&]<class Group>(const RowSums<S, 1>& sums) {
    const auto kernel =
        keep_residual ? bernoulli_epilogue_kernel<Group, true, S> : bernoulli_epilogue_kernel<Group, false, S>;
    launch(kernel, sums.items, Group::per_block, extent.rows, logits, bias, x, sums);
  });
}

template struct BernoulliHeadKernels<float>;
template struct BernoulliHeadKernels<double>;
template struct BernoulliHeadKernels<BFloat16>;
template struct BernoulliHeadKernels<Float16>;

}  // namespace fastvi
