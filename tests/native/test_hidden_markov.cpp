// Hidden Markov models against the sum over all paths.
#include "../../csrc/cpu/hidden_markov.h"
#include "check.h"

namespace fastvi::test {
namespace {

// Sequences of 1, 4 and 3 rows with three states.
void check_hidden_markov() {
  constexpr std::int64_t states = 3, rows = 8, starts[] = {0, 1, 5, 8};
  Random<double> random(19890201);
  const std::vector<double> densities = random.normal(rows * states);
  const auto logs = [](std::vector<double> values) {
    for (std::size_t i = 0; i < values.size(); i += states) {
      const double sum = std::exp(values[i]) + std::exp(values[i + 1]) + std::exp(values[i + 2]);
      for (std::size_t j = i; j < i + states; ++j) values[j] -= std::log(sum);
    }
    return values;
  };
  const std::vector<double> log_start = logs(random.normal(states)), table = logs(random.normal(states * states));
  Exact expected = 0;
  std::vector<Exact> posterior(rows * states), transitions(states * states);
  std::vector<std::int64_t> best(rows);
  for (std::size_t s = 0; s < 3; ++s) {
    const std::int64_t begin = starts[s], length = starts[s + 1] - begin;
    std::int64_t paths = 1;
    for (std::int64_t t = 0; t < length; ++t) paths *= states;
    const auto state = [&](std::int64_t path, std::int64_t t) {
      for (std::int64_t i = 0; i < t; ++i) path /= states;
      return path % states;
    };
    const auto log_joint = [&](std::int64_t path) {
      Exact sum = log_start[static_cast<std::size_t>(state(path, 0))];
      for (std::int64_t t = 0; t < length; ++t) {
        sum += densities[static_cast<std::size_t>((begin + t) * states + state(path, t))];
        if (t > 0) sum += table[static_cast<std::size_t>(state(path, t - 1) * states + state(path, t))];
      }
      return sum;
    };
    Exact evidence = 0;
    std::int64_t most = 0;
    for (std::int64_t path = 0; path < paths; ++path) {
      evidence += std::exp(log_joint(path));
      if (log_joint(path) > log_joint(most)) most = path;
    }
    expected += std::log(evidence);
    for (std::int64_t t = 0; t < length; ++t) best[static_cast<std::size_t>(begin + t)] = state(most, t);
    for (std::int64_t path = 0; path < paths; ++path) {
      const Exact share = std::exp(log_joint(path)) / evidence;
      for (std::int64_t t = 0; t < length; ++t) {
        posterior[static_cast<std::size_t>((begin + t) * states + state(path, t))] += share;
        if (t > 0) transitions[static_cast<std::size_t>(state(path, t - 1) * states + state(path, t))] += share;
      }
    }
  }
  const HiddenMarkov model{3, states, starts, densities.data(), log_start.data(), table.data()};
  std::vector<double> found = unwritten<double>(rows * states), sums = unwritten<double>(states * states);
  const double total = HiddenMarkovKernels::posteriors(model, found.data(), sums.data());
  check_near(std::vector<double>{total}, {expected}, 1e-14L, "log-likelihood of the sequences");
  check_near(found, posterior, 1e-14L, "posteriors of states");
  check_near(sums, transitions, 1e-14L, "expected transitions");
  std::vector<std::int64_t> path(rows);
  HiddenMarkovKernels::best_path(model, path.data());
  check(path == best, "the best path");
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::check_hidden_markov();
  return fastvi::test::report("hidden_markov");
}
