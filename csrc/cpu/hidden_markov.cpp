#include "hidden_markov.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "../formulas/log.h"
#include "parallel.h"

namespace fastvi {
namespace {

constexpr std::int64_t most_parts = 64;  // of the sequences; each has sums of its own
constexpr double nanoseconds_per_term = 1.5;

// out[j] = log sum_i exp(of_row[i] + table[i, j] + of_column[j]), (states,) each but for the table.
void log_sum_rows(std::int64_t states, const double* of_row, const double* table, const double* of_column,
                  double* largest, double* out) {
  std::fill_n(largest, states, -infinity<double>);
  std::fill_n(out, states, 0.0);
  for (std::int64_t i = 0; i < states; ++i) {
    const double* const row = table + i * states;
    const double added = of_row[i];
#pragma omp simd
    for (std::int64_t j = 0; j < states; ++j) {
      const double term = added + row[j];
      largest[j] = term > largest[j] ? term : largest[j];
    }
  }
#pragma omp simd
  for (std::int64_t j = 0; j < states; ++j) largest[j] = largest[j] == -infinity<double> ? 0.0 : largest[j];
  for (std::int64_t i = 0; i < states; ++i) {
    const double* const row = table + i * states;
    const double added = of_row[i];
#pragma omp simd
    for (std::int64_t j = 0; j < states; ++j) out[j] += exp_nonpositive(added + row[j] - largest[j]);
  }
#pragma omp simd
  for (std::int64_t j = 0; j < states; ++j) out[j] = largest[j] + log(out[j]) + of_column[j];
}

double log_sum(std::int64_t count, const double* values) {
  double largest = -infinity<double>, sum = 0;
  for (std::int64_t i = 0; i < count; ++i) largest = values[i] > largest ? values[i] : largest;
  if (largest == -infinity<double>) return largest;
  for (std::int64_t i = 0; i < count; ++i) sum += exp_nonpositive(values[i] - largest);
  return largest + log(sum);
}

// What one thread works with.
struct Scratch {
  std::vector<double> backward, next, largest, zeros;

  explicit Scratch(std::int64_t states)
      : backward(static_cast<std::size_t>(states)), next(backward), largest(backward), zeros(backward) {}
};

// `posterior` holds log alpha on the way; `transposed` is the transition table, from the column's state to the row's.
double of_sequence(const HiddenMarkov& model, const double* transposed, std::int64_t begin, std::int64_t end,
                   double* posterior, double* transitions, Scratch& scratch) {
  const std::int64_t states = model.states;
  double* const backward = scratch.backward.data();
  double* const next = scratch.next.data();
  for (std::int64_t row = begin; row < end; ++row) {
    const double* const density = model.log_densities + row * states;
    double* const alpha = posterior + row * states;
    if (row == begin) {
      for (std::int64_t j = 0; j < states; ++j) alpha[j] = model.log_start[j] + density[j];
    } else {
      log_sum_rows(states, alpha - states, model.log_transition, density, scratch.largest.data(), alpha);
    }
  }
  const double total = log_sum(states, posterior + (end - 1) * states);
  if (!(total > -infinity<double>)) {
    std::fill(posterior + begin * states, posterior + end * states, total == total ? 0.0 : total);
    return total;
  }
  std::fill_n(backward, states, 0.0);
  for (std::int64_t row = end - 1;; --row) {
    double* const alpha = posterior + row * states;
    if (row + 1 < end) {
      // next[j] = log density of row + 1 plus beta of it; expected transitions need alpha before it is overwritten.
      const double* const density = model.log_densities + (row + 1) * states;
      for (std::int64_t j = 0; j < states; ++j) next[j] = density[j] + backward[j] - total;
      for (std::int64_t i = 0; i < states; ++i) {
        const double* const table = model.log_transition + i * states;
        double* const sum = transitions + i * states;
        const double own = alpha[i];
#pragma omp simd
        for (std::int64_t j = 0; j < states; ++j) sum[j] += exp(own + table[j] + next[j]);
      }
      for (std::int64_t j = 0; j < states; ++j) next[j] += total;
      log_sum_rows(states, next, transposed, scratch.zeros.data(), scratch.largest.data(), backward);
    }
#pragma omp simd
    for (std::int64_t j = 0; j < states; ++j) alpha[j] = exp(alpha[j] + backward[j] - total);
    if (row == begin) return total;
  }
}

// Calls body(part, first, last) for parts of the sequences, which their number alone decides.
template <class Body>
void for_parts(const HiddenMarkov& model, double terms, const Body& body) {
  const std::int64_t parts = std::min(model.sequences, most_parts);
  const double work = static_cast<double>(model.starts[model.sequences] * model.states) *
                      static_cast<double>(model.states) * terms * nanoseconds_per_term;
  parallel_for(parts, static_cast<std::int64_t>(work), [&](std::int64_t part) {
    body(part, model.sequences * part / parts, model.sequences * (part + 1) / parts);
  });
}

}  // namespace

double HiddenMarkovKernels::posteriors(const HiddenMarkov& model, double* posterior, double* transitions) {
  const std::int64_t states = model.states, square = states * states;
  const std::int64_t parts = std::min(model.sequences, most_parts);
  std::vector<double> transposed(static_cast<std::size_t>(square));
  std::vector<double> sums(static_cast<std::size_t>(parts * square)), totals(static_cast<std::size_t>(model.sequences));
  std::vector<Scratch> scratch(static_cast<std::size_t>(parts), Scratch(states));
  for (std::int64_t i = 0; i < square; ++i) {
    transposed[static_cast<std::size_t>(i)] = model.log_transition[i % states * states + i / states];
  }
  for_parts(model, 3.0, [&](std::int64_t part, std::int64_t first, std::int64_t last) {
    for (std::int64_t s = first; s < last; ++s) {
      totals[static_cast<std::size_t>(s)] =
          of_sequence(model, transposed.data(), model.starts[s], model.starts[s + 1], posterior,
                      sums.data() + part * square, scratch[static_cast<std::size_t>(part)]);
    }
  });
  std::fill_n(transitions, square, 0.0);
  for (std::int64_t i = 0; i < parts * square; ++i) transitions[i % square] += sums[static_cast<std::size_t>(i)];
  double total = 0;
  for (const double each : totals) total += each;
  return total;
}

void HiddenMarkovKernels::best_path(const HiddenMarkov& model, std::int64_t* path) {
  const std::int64_t states = model.states, rows = model.starts[model.sequences];
  const auto from = std::make_unique_for_overwrite<std::int32_t[]>(static_cast<std::size_t>(rows * states));
  std::vector<Scratch> scratch(static_cast<std::size_t>(std::min(model.sequences, most_parts)), Scratch(states));
  for_parts(model, 0.5, [&](std::int64_t part, std::int64_t first, std::int64_t last) {
    double* best = scratch[static_cast<std::size_t>(part)].backward.data();
    double* next = scratch[static_cast<std::size_t>(part)].next.data();
    for (std::int64_t s = first; s < last; ++s) {
      const std::int64_t begin = model.starts[s], end = model.starts[s + 1];
      for (std::int64_t j = 0; j < states; ++j) best[j] = model.log_start[j] + model.log_densities[begin * states + j];
      for (std::int64_t row = begin + 1; row < end; ++row) {
        std::int32_t* const chosen = from.get() + row * states;
        std::fill_n(chosen, states, 0);
        for (std::int64_t j = 0; j < states; ++j) next[j] = best[0] + model.log_transition[j];
        for (std::int64_t i = 1; i < states; ++i) {
          for (std::int64_t j = 0; j < states; ++j) {
            const double found = best[i] + model.log_transition[i * states + j];
            chosen[j] = found > next[j] ? static_cast<std::int32_t>(i) : chosen[j];
            next[j] = found > next[j] ? found : next[j];
          }
        }
        for (std::int64_t j = 0; j < states; ++j) next[j] += model.log_densities[row * states + j];
        std::swap(best, next);
      }
      std::int64_t state = std::max_element(best, best + states) - best;
      for (std::int64_t row = end - 1; row > begin; --row) {
        path[row] = state;
        state = from[static_cast<std::size_t>(row * states + state)];
      }
      path[begin] = state;
    }
  });
}

}  // namespace fastvi
