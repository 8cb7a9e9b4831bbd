// Gaussian samples and their log ratios against their formulas; the noise is what `normal_noise` gives, which
// test_noise.cpp checks.
#include "check.h"

namespace fastvi::test {
namespace {

constexpr std::int64_t seed = 0x5eed5eed5eed;
constexpr std::int64_t row_offset = 11;

// The parameters of one sampling problem, and what it draws.
template <class S>
struct Problem {
  Extent extent;
  std::array<Operand<S>, 4> operands;  // mean, logvar, prior mean, prior logvar: one for all samples
  std::vector<ComputeType<S>> noise;   // before it is rounded

  Problem(const Extent& given, int variant, Random<S>& random)
      : extent(given),
        operands{operand(variant, random), operand(variant + 1, random), operand(variant + 2, random),
                 operand(variant + 3, random)},
        noise(static_cast<std::size_t>(given.samples * given.rows * given.columns)) {
    NoiseKernels<ComputeType<S>>::normal_noise(noise.data(), extent, &seed, row_offset);
  }

  Operand<S> operand(int variant, Random<S>& random) const {
    return {{1, extent.rows, extent.columns}, static_cast<Layout>(variant % layouts), random};
  }

  SampleParameters<S> parameters(bool with_prior) const {
    return {operands[0].view(),
            operands[1].view(),
            with_prior ? operands[2].view() : RowView<const S>{},
            with_prior ? operands[3].view() : RowView<const S>{},
            &seed,
            row_offset};
  }

  Exact eps(std::int64_t k, std::int64_t b, std::int64_t d) const { return noise[flat(extent, k, b, d)]; }
};

template <class S>
void check_samples(const Problem<S>& problem, const std::string& what, Random<S>& random) {
  const Extent& extent = problem.extent;
  const auto elements = problem.noise.size(), row_elements = static_cast<std::size_t>(extent.rows * extent.columns);
  const std::vector<S> upstream = random.normal(static_cast<std::int64_t>(elements));
  std::vector<Bounded> z(elements), by_mean(row_elements), by_logvar(row_elements);
  for_each_element(extent, [&](std::int64_t k, std::int64_t b, std::int64_t d) {
    const Exact mean = problem.operands[0].at(0, b, d), logvar = problem.operands[1].at(0, b, d);
    const Exact shift = std::exp(logvar / 2) * problem.eps(k, b, d), size = std::fabs(shift) * (1 + std::fabs(logvar));
    const Exact gradient = exact(upstream[flat(extent, k, b, d)]);
    z[flat(extent, k, b, d)].add(mean + shift, std::fabs(mean) + size);
    by_mean[flat(extent, 0, b, d)].add(gradient, std::fabs(gradient));
    by_logvar[flat(extent, 0, b, d)].add(gradient * shift / 2, std::fabs(gradient) * size / 2);
  });
  check_close(on_any_threads(what,
                             [&] {
                               std::vector<S> out = unwritten<S>(elements);
                               SamplingKernels<S>::rsample_normal(extent, problem.parameters(false), out.data());
                               return out;
                             }),
              z, 1, what);
  for (const bool mean_wanted : {false, true}) {
    for (const bool logvar_wanted : {false, true}) {
      std::vector<S> found_logvar;
      const auto found_mean = on_any_threads(what + ", gradients", [&] {
        std::vector<S> mean = unwritten<S>(mean_wanted ? row_elements : 0);
        std::vector<S> logvar = unwritten<S>(logvar_wanted ? row_elements : 0);
        SamplingKernels<S>::rsample_normal_backward(extent, problem.parameters(false), upstream.data(),
                                                    mean_wanted ? mean.data() : nullptr,
                                                    logvar_wanted ? logvar.data() : nullptr);
        check(found_logvar.empty() || same_bits(found_logvar, logvar), what + ": logvar's gradient has other bits");
        found_logvar = logvar;
        return mean;
      });
      if (mean_wanted) check_close(found_mean, by_mean, 16 * extent.samples, what + ", gradient of mean");
      if (logvar_wanted) check_close(found_logvar, by_logvar, 16 * extent.samples, what + ", gradient of logvar");
    }
  }
}

// log p(z) - log q(z) with every choice of prior, upstream gradients and detachment.
template <class S>
void check_log_ratio(const Problem<S>& problem, bool with_prior, const std::string& what, Random<S>& random) {
  const Extent& extent = problem.extent;
  const auto elements = problem.noise.size(), row_elements = static_cast<std::size_t>(extent.rows * extent.columns);
  const auto rows = static_cast<std::size_t>(extent.samples * extent.rows);
  const std::vector<S> z_upstream = random.normal(static_cast<std::int64_t>(elements));
  const std::vector<S> ratio_upstream = random.normal(static_cast<std::int64_t>(rows));
  const auto row_of = [&](std::int64_t k, std::int64_t b) { return static_cast<std::size_t>(k * extent.rows + b); };

  const auto value_and_gradients = [&](bool by_z, bool by_ratio, bool detached) {
    struct {
      std::vector<Bounded> ratio;
      std::array<std::vector<Bounded>, 4> gradients;
    } found;
    found.ratio.resize(rows);
    for (auto& gradient : found.gradients) gradient.resize(row_elements);
    for_each_element(extent, [&](std::int64_t k, std::int64_t b, std::int64_t d) {
      const Exact mean = problem.operands[0].at(0, b, d), logvar = problem.operands[1].at(0, b, d);
      const Exact prior_mean = with_prior ? problem.operands[2].at(0, b, d) : 0;
      const Exact prior_logvar = with_prior ? problem.operands[3].at(0, b, d) : 0;
      const Exact eps = problem.eps(k, b, d), scale = std::exp(logvar / 2), precision = std::exp(-prior_logvar);
      const Exact difference = mean + scale * eps - prior_mean;
      const Exact rounding = (1 + std::fabs(logvar)) * (1 + std::fabs(prior_logvar));
      const Exact spread = std::fabs(mean) + scale * std::fabs(eps) + std::fabs(prior_mean);
      found.ratio[row_of(k, b)].add(
          (eps * eps + logvar - difference * difference * precision - prior_logvar) / 2,
          (eps * eps + std::fabs(logvar) + spread * spread * precision * rounding + std::fabs(prior_logvar)) / 2);

      const Exact g_z = by_z ? exact(z_upstream[flat(extent, k, b, d)]) : 0;
      const Exact g_ratio = by_ratio ? exact(ratio_upstream[row_of(k, b)]) : 0;
      const Exact posterior = detached ? eps / scale : 0;
      const Exact path = g_z + g_ratio * (posterior - difference * precision);
      const Exact path_size =
          std::fabs(g_z) + std::fabs(g_ratio) * rounding * (std::fabs(posterior) + spread * precision);
      const Exact direct = detached ? 0 : g_ratio / 2;
      const auto at = flat(extent, 0, b, d);
      found.gradients[0][at].add(path, path_size);
      found.gradients[1][at].add(scale * path * eps / 2 + direct,
                                 scale * path_size * std::fabs(eps) * rounding / 2 + std::fabs(direct));
      found.gradients[2][at].add(g_ratio * difference * precision, std::fabs(g_ratio) * spread * precision * rounding);
      found.gradients[3][at].add(g_ratio * (difference * difference * precision - 1) / 2,
                                 std::fabs(g_ratio) * (spread * spread * precision * rounding + 1) / 2);
    });
    return found;
  };

  std::vector<S> plain(elements);
  SamplingKernels<S>::rsample_normal(extent, problem.parameters(with_prior), plain.data());
  check_close(on_any_threads(what,
                             [&] {
                               std::vector<S> z = unwritten<S>(elements), ratio(rows);
                               SamplingKernels<S>::rsample_normal_with_log_ratio(extent, problem.parameters(with_prior),
                                                                                 z.data(), ratio.data());
                               check(same_bits(z, plain), what + ": samples differ from rsample_normal's");
                               return ratio;
                             }),
              value_and_gradients(false, false, false).ratio, extent.columns, what);

  for (const auto [by_z, by_ratio] : {std::array{true, true}, std::array{true, false}, std::array{false, true}}) {
    for (const bool detached : {false, true}) {
      const auto expected = value_and_gradients(by_z, by_ratio, detached).gradients;
      for (const unsigned wanted : choices(with_prior ? 4 : 2)) {
        const std::vector<S> joined = on_any_threads(what + ", gradients", [&, by_z = by_z, by_ratio = by_ratio] {
          std::array<std::vector<S>, 4> gradients;
          std::array<S*, 4> targets{};
          for (std::size_t i = 0; i < 4; ++i) {
            if ((wanted >> i) % 2 == 0) continue;
            gradients[i] = unwritten<S>(row_elements);
            targets[i] = gradients[i].data();
          }
          SamplingKernels<S>::rsample_normal_with_log_ratio_backward(
              extent, problem.parameters(with_prior), detached, by_z ? z_upstream.data() : nullptr,
              by_ratio ? RowView<const S>{ratio_upstream.data(), extent.rows, 1} : RowView<const S>{},
              {targets[0], targets[1], targets[2], targets[3]});
          std::vector<S> all;
          for (const auto& gradient : gradients) all.insert(all.end(), gradient.begin(), gradient.end());
          return all;
        });
        auto next = joined.begin();
        for (std::size_t i = 0; i < 4; ++i) {
          if ((wanted >> i) % 2 == 0) continue;
          const auto last = next + static_cast<std::ptrdiff_t>(row_elements);
          check_close(std::vector<S>(next, last), expected[i], 16 * extent.samples,
                      what + ", gradient " + std::to_string(i));
          next = last;
        }
      }
    }
  }
}

template <class S>
void check_sampling() {
  Random<S> random(20131220);
  for (const Extent& extent : extents()) {
    for (int variant = 0; variant < layouts; ++variant) {
      const Problem<S> problem(extent, variant, random);
      const std::string what = describe(extent) + ", variant " + std::to_string(variant);
      check_samples(problem, "rsample_normal" + what, random);
      check_log_ratio(problem, false, "log ratio, standard prior" + what, random);
      check_log_ratio(problem, true, "log ratio" + what, random);
    }
  }
}

// A row of very many columns, and very many samples of one element.
template <class S>
void check_long_sums() {
  using Kernels = SamplingKernels<S>;
  const std::vector<S> numbers(very_many, stored<S>(0.3));
  const std::vector<S> small(very_many, stored<S>(0.0003));  // whose sum float16 can hold
  const Exact number = exact(numbers[0]), weight = exact(small[0]), count = very_many;
  const RowView<const S> row{numbers.data(), very_many, very_many};
  const Extent samples{very_many, 1, 1};
  const SampleParameters<S> parameters{{numbers.data(), 0, 0}, {numbers.data(), 0, 0}, {}, {}, &seed, row_offset};
  std::vector<S> by_mean = unwritten<S>(1);
  Kernels::rsample_normal_backward(samples, parameters, small.data(), by_mean.data(), nullptr);
  check_long_sum(by_mean, count * weight, "rsample_normal, gradient of very many samples");
  Kernels::rsample_normal_with_log_ratio_backward(samples, parameters, true, small.data(), {},
                                                  {by_mean.data(), nullptr, nullptr, nullptr});
  check_long_sum(by_mean, count * weight, "log ratio, gradient of very many samples");

  // A ratio of one row is shared by threads; its sum is that of what normal_noise draws.
  const Extent wide{1, 1, very_many};
  std::vector<ComputeType<S>> noise(very_many);
  NoiseKernels<ComputeType<S>>::normal_noise(noise.data(), wide, &seed, row_offset);
  Bounded expected;
  for (const auto draw : noise) {
    const Exact eps = exact(draw), z = number + std::exp(number / 2) * eps;
    expected.add((eps * eps - z * z + number) / 2, (eps * eps + z * z + number) / 2);
  }
  const auto ratio = on_any_threads("log ratio of a long row", [&] {
    std::vector<S> z(very_many), out = unwritten<S>(1);
    Kernels::rsample_normal_with_log_ratio(wide, {row, row, {}, {}, &seed, row_offset}, z.data(), out.data());
    return out;
  });
  check_close(ratio, {expected}, very_many, "log ratio of a long row");
}

template <class S>
void check_all() {
  check_sampling<S>();
  check_long_sums<S>();
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::for_each_type([]<class S> { fastvi::test::check_all<S>(); });
  return fastvi::test::report("sampling");
}
