// What the native modules of all backends have: every kernel, for float32, float64, bfloat16 and float16. Kernels run
// without the GIL. Compiled once, and linked with the kernels of each backend.
#include "module.h"

#include "casters.h"

namespace fastvi {
namespace {

namespace py = pybind11;
using ReleaseGil = py::call_guard<py::gil_scoped_release>;

template <class S>
void bind_noise(py::module_& m) {
  using Kernels = NoiseKernels<S>;
  m.def(
      "standard_normal",
      [](Address out, std::int64_t count, Address seed) {
        Kernels::standard_normal(pointer<S>(out), count, pointer<const std::int64_t>(seed));
      },
      ReleaseGil());
  m.def(
      "normal_noise",
      [](const Extent& extent, Address seed, std::int64_t row_offset, Address out) {
        Kernels::normal_noise(pointer<S>(out), extent, pointer<const std::int64_t>(seed), row_offset);
      },
      ReleaseGil());
}

template <class S>
void bind_normal(py::module_& m) {
  using Kernels = NormalKernels<S>;
  using View = RowView<const S>;
  using Gradient = GradientView<S>;
  m.def(
      "kl_normal",
      [](const Extent& extent, const View& mean, const View& logvar, const View& prior_mean, const View& prior_logvar,
         ComputeType<S> free_bits, Address out) {
        Kernels::kl_normal(extent, {mean, logvar, prior_mean, prior_logvar}, free_bits, pointer<S>(out));
      },
      ReleaseGil());
  m.def(
      "kl_normal_backward",
      [](const Extent& extent, const View& mean, const View& logvar, const View& prior_mean, const View& prior_logvar,
         ComputeType<S> free_bits, const View& upstream, const Gradient& by_mean, const Gradient& by_logvar,
         const Gradient& by_prior_mean, const Gradient& by_prior_logvar) {
        Kernels::kl_normal_backward(extent, {mean, logvar, prior_mean, prior_logvar}, free_bits, upstream,
                                    {by_mean, by_logvar, by_prior_mean, by_prior_logvar});
      },
      ReleaseGil());
  m.def(
      "normal_log_prob",
      [](const Extent& extent, const View& x, const View& mean, const View& logvar, Address out) {
        Kernels::normal_log_prob(extent, {x, mean, logvar}, pointer<S>(out));
      },
      ReleaseGil());
  m.def(
      "normal_log_prob_backward",
      [](const Extent& extent, const View& x, const View& mean, const View& logvar, const View& upstream,
         const Gradient& by_x, const Gradient& by_mean, const Gradient& by_logvar) {
        Kernels::normal_log_prob_backward(extent, {x, mean, logvar}, upstream, {by_x, by_mean, by_logvar});
      },
      ReleaseGil());
  m.def(
      "normal_entropy",
      [](const Extent& extent, const View& logvar, Address out) {
        Kernels::normal_entropy(extent, logvar, pointer<S>(out));
      },
      ReleaseGil());
  m.def(
      "normal_entropy_backward",
      [](const Extent& extent, const View& logvar, const View& upstream, const Gradient& by_logvar) {
        Kernels::normal_entropy_backward(extent, logvar, upstream, by_logvar);
      },
      ReleaseGil());
  m.def(
      "rsample_normal",
      [](const Extent& extent, const View& mean, const View& logvar, Address seed, std::int64_t row_offset, Address z) {
        Kernels::rsample_normal(extent, {mean, logvar, {}, {}, pointer<const std::int64_t>(seed), row_offset},
                                pointer<S>(z));
      },
      ReleaseGil());
  m.def(
      "rsample_normal_backward",
      [](const Extent& extent, const View& mean, const View& logvar, Address seed, std::int64_t row_offset,
         Address upstream, Address by_mean, Address by_logvar) {
        Kernels::rsample_normal_backward(extent, {mean, logvar, {}, {}, pointer<const std::int64_t>(seed), row_offset},
                                         pointer<const S>(upstream), pointer<S>(by_mean), pointer<S>(by_logvar));
      },
      ReleaseGil());
  m.def(
      "rsample_normal_with_log_ratio",
      [](const Extent& extent, const View& mean, const View& logvar, const View& prior_mean, const View& prior_logvar,
         Address seed, std::int64_t row_offset, Address z, Address log_ratio) {
        Kernels::rsample_normal_with_log_ratio(
            extent, {mean, logvar, prior_mean, prior_logvar, pointer<const std::int64_t>(seed), row_offset},
            pointer<S>(z), pointer<S>(log_ratio));
      },
      ReleaseGil());
  m.def(
      "rsample_normal_with_log_ratio_backward",
      [](const Extent& extent, const View& mean, const View& logvar, const View& prior_mean, const View& prior_logvar,
         Address seed, std::int64_t row_offset, bool detach_posterior, Address z_upstream, const View& ratio_upstream,
         Address by_mean, Address by_logvar, Address by_prior_mean, Address by_prior_logvar) {
        Kernels::rsample_normal_with_log_ratio_backward(
            extent, {mean, logvar, prior_mean, prior_logvar, pointer<const std::int64_t>(seed), row_offset},
            detach_posterior, pointer<const S>(z_upstream), ratio_upstream,
            {pointer<S>(by_mean), pointer<S>(by_logvar), pointer<S>(by_prior_mean), pointer<S>(by_prior_logvar)});
      },
      ReleaseGil());
}

template <class S>
void bind_bernoulli(py::module_& m) {
  using Kernels = BernoulliKernels<S>;
  using View = RowView<const S>;
  using Gradient = GradientView<S>;
  m.def(
      "bernoulli_log_prob",
      [](const Extent& extent, const View& x, const View& logits, Address out) {
        Kernels::bernoulli_log_prob(extent, {x, logits}, pointer<S>(out));
      },
      ReleaseGil());
  m.def(
      "bernoulli_log_prob_backward",
      [](const Extent& extent, const View& x, const View& logits, const View& upstream, const Gradient& by_x,
         const Gradient& by_logits) {
        Kernels::bernoulli_log_prob_backward(extent, {x, logits}, upstream, {by_x, by_logits});
      },
      ReleaseGil());
  m.def(
      "bernoulli_epilogue",
      [](const Extent& extent, Address logits, Address bias, const View& x, bool keep_residual, Address out) {
        Kernels::bernoulli_epilogue(extent, pointer<S>(logits), pointer<const S>(bias), x, keep_residual,
                                    pointer<S>(out));
      },
      ReleaseGil());
}

template <class S>
void bind_sum(py::module_& m) {
  m.def(
      "axis_sum",
      [](const AxisExtent& extent, Address x, Address weights, Address out) {
        SumKernels<S>::axis_sum(extent, pointer<const S>(x), pointer<const S>(weights), pointer<S>(out));
      },
      ReleaseGil());
}

template <class S>
void bind_log_mean_exp(py::module_& m) {
  using Kernels = LogMeanExpKernels<S>;
  m.def(
      "log_mean_exp",
      [](const AxisExtent& extent, Address x, Address out) {
        Kernels::log_mean_exp(extent, pointer<const S>(x), pointer<S>(out));
      },
      ReleaseGil());
  m.def(
      "scaled_softmax",
      [](const AxisExtent& extent, Address x, Address scale, bool as_gradient, Address out) {
        Kernels::scaled_softmax(extent, pointer<const S>(x), pointer<const S>(scale), as_gradient, pointer<S>(out));
      },
      ReleaseGil());
  m.def(
      "effective_sample_size",
      [](const AxisExtent& extent, Address x, Address out) {
        Kernels::effective_sample_size(extent, pointer<const S>(x), pointer<S>(out));
      },
      ReleaseGil());
}

template <class S>
void bind_leapfrog(py::module_& m) {
  using T = ComputeType<S>;
  using Factor = FactorView<T>;
  using Kernels = LeapfrogKernels<S>;
  using View = RowView<const S>;
  using Gradient = GradientView<S>;
  m.def(
      "leapfrog_step",
      [](std::int64_t rows, std::int64_t columns, const View& position, const View& momentum, const View& gradient,
         const Factor& step_size, const Factor& inverse_mass, T kick, Address new_position, Address new_momentum) {
        Kernels::leapfrog_step(rows, columns, {position, momentum, gradient, step_size, inverse_mass, kick},
                               pointer<S>(new_position), pointer<S>(new_momentum));
      },
      ReleaseGil());
  m.def(
      "leapfrog_step_backward",
      [](std::int64_t rows, std::int64_t columns, const View& position, const View& momentum, const View& gradient,
         const Factor& step_size, const Factor& inverse_mass, T kick, Address by_position, Address by_momentum,
         Address momentum_out, Address gradient_out, Address step_size_out, Address inverse_mass_out) {
        Kernels::leapfrog_step_backward(rows, columns, {position, momentum, gradient, step_size, inverse_mass, kick},
                                        pointer<const S>(by_position), pointer<const S>(by_momentum),
                                        {pointer<S>(momentum_out), pointer<S>(gradient_out), pointer<T>(step_size_out),
                                         pointer<T>(inverse_mass_out)});
      },
      ReleaseGil());
  m.def(
      "kinetic_energy",
      [](const Extent& extent, const View& momentum, const View& inverse_mass, Address out) {
        Kernels::kinetic_energy(extent, {momentum, inverse_mass}, pointer<S>(out));
      },
      ReleaseGil());
  m.def(
      "kinetic_energy_backward",
      [](const Extent& extent, const View& momentum, const View& inverse_mass, const View& upstream,
         const Gradient& by_momentum, const Gradient& by_inverse_mass) {
        Kernels::kinetic_energy_backward(extent, {momentum, inverse_mass}, upstream, {by_momentum, by_inverse_mass});
      },
      ReleaseGil());
}

template <class S>
void bind_all(py::module_ m) {
  bind_noise<S>(m);
  bind_normal<S>(m);
  bind_bernoulli<S>(m);
  bind_sum<S>(m);
  bind_log_mean_exp<S>(m);
  bind_leapfrog<S>(m);
}

}  // namespace

void bind_kernels(py::module_& m) {
  bind_all<float>(m.def_submodule("float32"));
  bind_all<double>(m.def_submodule("float64"));
  bind_all<BFloat16>(m.def_submodule("bfloat16"));
  bind_all<Float16>(m.def_submodule("float16"));
  m.def(
      "philox_words",
      [](Address out, std::int64_t blocks, Address seed) {
        philox_words(pointer<std::uint32_t>(out), blocks, pointer<const std::int64_t>(seed));
      },
      ReleaseGil());
}

}  // namespace fastvi
