// The list of the operations that follow one of two patterns. A row operation sums a term over the last dimension; the
// results of a map operation have the shape of its operands. Each is declared once, here: what it takes, and the terms
// (csrc/formulas) that it is made of. The kernels of all backends, the native functions and their checks, and PyTorch's
// operators follow from the declarations; docs/adding-an-operation.md tells what stands elsewhere.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "formulas/bernoulli.h"
#include "formulas/continuous_bernoulli.h"
#include "formulas/laplace.h"
#include "formulas/leapfrog.h"
#include "formulas/negative_binomial.h"
#include "formulas/normal.h"
#include "formulas/poisson.h"
#include "formulas/threshold.h"
#include "kernels.h"

namespace fastvi {

// A number that an operation takes besides its tensors.
struct Constant {
  const char* name;
  bool is_non_negative = false;
};

// ---- Row operations: operands that broadcast, of which the last may be left out, all of them together.

// What operations share that have no constants and the same term for all operands.
template <template <class> class Term>
struct SingleTerm {
  static constexpr std::array<Constant, 0> constants{};

  template <class T, class Use>
  static void with_term(std::size_t, const std::array<T, 0>&, const Use& use) {
    use(Term<T>{});
  }
};

struct KlNormal {
  static constexpr const char* name = "kl_normal";
  static constexpr std::array<const char*, 4> operands{"mean", "logvar", "prior_mean", "prior_logvar"};
  static constexpr std::size_t required = 2;
  static constexpr std::array<Constant, 1> constants{{{"free_bits", true}}};

  // Calls use(term) with the term of the `given` operands.
  template <class T, class Use>
  static void with_term(std::size_t given, const std::array<T, 1>& constants, const Use& use) {
    const T free_bits = constants[0];
    if (given == 4) return use(Divergence<T>{free_bits});
    return free_bits > T(0) ? use(ClampedStandardDivergence<T>{{free_bits}}) : use(StandardDivergence<T>{free_bits});
  }
};

struct NormalLogProb : SingleTerm<NormalLogDensity> {
  static constexpr const char* name = "normal_log_prob";
  static constexpr std::array<const char*, 3> operands{"x", "mean", "logvar"};
  static constexpr std::size_t required = 3;
};

struct NormalEntropyOperation : SingleTerm<NormalEntropy> {
  static constexpr const char* name = "normal_entropy";
  static constexpr std::array<const char*, 1> operands{"logvar"};
  static constexpr std::size_t required = 1;
};

struct BernoulliLogProb : SingleTerm<BernoulliLogDensity> {
  static constexpr const char* name = "bernoulli_log_prob";
  static constexpr std::array<const char*, 2> operands{"x", "logits"};
  static constexpr std::size_t required = 2;
};

struct ContinuousBernoulliLogProb : SingleTerm<ContinuousBernoulliLogDensity> {
  static constexpr const char* name = "continuous_bernoulli_log_prob";
  static constexpr std::array<const char*, 2> operands{"x", "logits"};
  static constexpr std::size_t required = 2;
};

struct KineticEnergyOperation {
  static constexpr const char* name = "kinetic_energy";
  static constexpr std::array<const char*, 2> operands{"p", "inverse_mass"};
  static constexpr std::size_t required = 1;
  static constexpr std::array<Constant, 0> constants{};

  template <class T, class Use>
  static void with_term(std::size_t given, const std::array<T, 0>&, const Use& use) {
    if (given == 1) return use(KineticEnergy<T>{});
    use(WeightedKineticEnergy<T>{});
  }
};

struct LaplaceLogProb : SingleTerm<LaplaceLogDensity> {
  static constexpr const char* name = "laplace_log_prob";
  static constexpr std::array<const char*, 3> operands{"x", "loc", "log_scale"};
  static constexpr std::size_t required = 3;
};

struct NegativeBinomialLogProb : SingleTerm<NegativeBinomialLogDensity> {
  static constexpr const char* name = "negative_binomial_log_prob";
  static constexpr std::array<const char*, 3> operands{"x", "total_count", "logits"};
  static constexpr std::size_t required = 3;
};

struct ZeroInflatedNegativeBinomialLogProb : SingleTerm<ZeroInflatedNegativeBinomialLogDensity> {
  static constexpr const char* name = "zero_inflated_negative_binomial_log_prob";
  static constexpr std::array<const char*, 4> operands{"x", "total_count", "logits", "gate_logits"};
  static constexpr std::size_t required = 4;
};

struct PoissonLogProb : SingleTerm<PoissonLogDensity> {
  static constexpr const char* name = "poisson_log_prob";
  static constexpr std::array<const char*, 2> operands{"x", "log_rate"};
  static constexpr std::size_t required = 2;
};

// ---- Map operations: states of one shape, and factors, which are one number, one a row or one a column, in the type
// of the arithmetic. The last factors may be left out: they are one.

struct LeapfrogStep {
  static constexpr const char* name = "leapfrog_step";
  static constexpr std::array<const char*, 3> states{"q", "p", "grad"};
  static constexpr std::array<const char*, 2> factors{"step_size", "inverse_mass"};
  static constexpr std::size_t required_factors = 1;
  static constexpr std::array<Constant, 1> constants{{{"kick"}}};
  static constexpr std::size_t outputs = 2;

  template <class T>
  static LeapfrogTerm<T> term(const std::array<T, 1>& constants) {
    return {constants[0]};
  }
};

struct MomentumKick {
  static constexpr const char* name = "momentum_kick";
  static constexpr std::array<const char*, 2> states{"p", "grad"};
  static constexpr std::array<const char*, 1> factors{"step_size"};
  static constexpr std::size_t required_factors = 1;
  static constexpr std::array<Constant, 1> constants{{{"kick"}}};
  static constexpr std::size_t outputs = 1;

  template <class T>
  static MomentumKickTerm<T> term(const std::array<T, 1>& constants) {
    return {constants[0]};
  }
};

struct SoftThreshold {
  static constexpr const char* name = "soft_threshold";
  static constexpr std::array<const char*, 1> states{"x"};
  static constexpr std::array<const char*, 1> factors{"threshold"};
  static constexpr std::size_t required_factors = 1;
  static constexpr std::array<Constant, 0> constants{};
  static constexpr std::size_t outputs = 1;

  template <class T>
  static SoftThresholdTerm<T> term(const std::array<T, 0>&) {
    return {};
  }
};

template <class... Operations>
struct OperationList {};

using RowOperations = OperationList<KlNormal, NormalLogProb, NormalEntropyOperation, BernoulliLogProb,
                                    ContinuousBernoulliLogProb, KineticEnergyOperation, LaplaceLogProb,
                                    NegativeBinomialLogProb, ZeroInflatedNegativeBinomialLogProb, PoissonLogProb>;
using MapOperations = OperationList<LeapfrogStep, MomentumKick, SoftThreshold>;

// ---- The list at run time. Arrays of kernels have one for each dtype, in the order of `DType`; views are of that
// dtype.

enum class DType : int { float32, float64, bfloat16, float16, int64, other };
inline constexpr std::size_t num_dtypes = 4;  // those that have kernels

using View = RowView<const void>;

struct RowOperation {
  // Views of operands that were not given are null.
  using Forward = void (*)(const Extent& extent, const View* operands, const double* constants, void* out);
  using Backward = void (*)(const Extent& extent, const View* operands, const double* constants, const View& upstream,
                            const GradientView<void>* gradients);

  const char* name;
  std::span<const char* const> operands;
  std::size_t required;
  std::span<const Constant> constants;
  std::array<Forward, num_dtypes> forward;
  std::array<Backward, num_dtypes> backward;
};

struct MapOperation {
  // Outputs, upstream gradients, and gradients are contiguous (rows, columns); gradients that are not wanted are null.
  // That of a factor of one number a row, or of one number, has one number a row.
  using Forward = void (*)(std::int64_t rows, std::int64_t columns, const View* states, const FactorView<void>* factors,
                           const double* constants, void* const* outputs);
  using Backward = void (*)(std::int64_t rows, std::int64_t columns, const View* states,
                            const FactorView<void>* factors, const double* constants, const void* const* upstream,
                            void* const* gradients);

  const char* name;
  std::span<const char* const> states, factors;
  std::size_t required_factors;
  std::span<const Constant> constants;
  std::size_t outputs;
  std::array<Forward, num_dtypes> forward;
  std::array<Backward, num_dtypes> backward;
};

// What this backend has: every operation of the lists above.
std::span<const RowOperation> row_operations();
std::span<const MapOperation> map_operations();

}  // namespace fastvi
