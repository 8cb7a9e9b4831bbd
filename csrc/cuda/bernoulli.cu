#include "../formulas/bernoulli.h"
#include "rows.cuh"

namespace fastvi {
namespace {

// The log-likelihood of columns: each thread multiplies the factors 1 + exp(-|l|) of at most 48 of them, a product far
// from overflow in float32, before it takes a logarithm.
template <class T>
class LogProbSum {
 public:
  FASTVI_DEVICE void add_term(const BernoulliTerm<T>& term) {
    linear_ += term.linear;
    product_minus_1_ = append_to_product_minus_1(product_minus_1_, term.exponential);
    if (++count_ == 48) carry();
  }

  // Columns of x and of the logits.
  FASTVI_DEVICE void add(const std::array<T, 2>& values) { add_term(bernoulli_term(values[0], values[1])); }

  FASTVI_DEVICE T result() {
    carry();
    return sum_.result();
  }

 private:
  FASTVI_DEVICE void carry() {
    sum_.add(linear_ - log1p(product_minus_1_));
    linear_ = product_minus_1_ = T(0);
    count_ = 0;
  }

  T linear_ = T(0), product_minus_1_ = T(0);
  int count_ = 0;
  LongSum<T> sum_;
};

template <class Group, bool keep_residual, class S>
__global__ void __launch_bounds__(block_threads, sizeof(S) == 8 ? 1 : 4)
    bernoulli_epilogue_kernel(Extent extent, S* logits, const S* bias, RowView<const S> x, std::int64_t items,
                              Pieces pieces, RowSums<S, 1> sums) {
  using T = ComputeType<S>;
  for (std::int64_t item = Group::first(); item < items; item += Group::count()) {
    const auto piece = RowPiece::of<Group>(item, extent.samples * extent.rows, extent.columns, pieces);
    const Place place(piece.row, extent.rows);
    S* const own = logits + piece.row * extent.columns + piece.first;
    LogProbSum<T> sum;
    const auto residual = [&](std::int64_t d, const std::array<T, 2>& values) {
      const T logit = bias == nullptr ? values[0] : values[0] + static_cast<T>(bias[piece.first + d]);
      const BernoulliTerm<T> term = bernoulli_term(values[1], logit);
      sum.add_term(term);
      return std::array<T, 1>{{bernoulli_residual(values[1], logit, term.exponential)}};
    };
    const std::array<const S*, 2> in{{own, x.row(place.outer, place.inner) + piece.first}};
    if constexpr (keep_residual) {
      map_columns<S>(in, std::array<S*, 1>{{own}}, piece.count, Group::lane(), Group::threads, residual);
    } else {
      for_each_column<S>(in, piece.count, Group::lane(), Group::threads, residual);
    }
    const T total = Group::sum(sum.result());
    if (Group::lane() == 0) sums.store(item, {{total}});
  }
}

}  // namespace

template <class S>
void BernoulliKernels<S>::bernoulli_log_prob(const Extent& extent, const std::array<RowView<const S>, 2>& operands,
                                             S* out) {
  reduce_rows<S, 2>(extent, operands, LogProbSum<ComputeType<S>>{}, out);
}

template <class S>
void BernoulliKernels<S>::bernoulli_log_prob_backward(const Extent& extent,
                                                      const std::array<RowView<const S>, 2>& operands,
                                                      const RowView<const S>& upstream,
                                                      const std::array<GradientView<S>, 2>& gradients) {
  row_gradients<S>(extent, operands, upstream, gradients, BernoulliLogDensity<ComputeType<S>>{});
}

template <class S>
void BernoulliKernels<S>::bernoulli_epilogue(const Extent& extent, S* logits, const S* bias, const RowView<const S>& x,
                                             bool keep_residual, S* out) {
  sum_rows<S, 1>(extent.samples * extent.rows, extent.columns, {{out}},
                 [&]<class Group>(std::int64_t items, const Pieces& pieces, const RowSums<S, 1>& sums) {
                   const auto kernel = keep_residual ? bernoulli_epilogue_kernel<Group, true, S>
                                                     : bernoulli_epilogue_kernel<Group, false, S>;
                   launch(kernel, items, Group::per_block, extent, logits, bias, x, items, pieces, sums);
                 });
}

template struct BernoulliKernels<float>;
template struct BernoulliKernels<double>;
template struct BernoulliKernels<BFloat16>;
template struct BernoulliKernels<Float16>;

}  // namespace fastvi
