// Forward-backward and Viterbi in log space for hidden Markov models of K states, over sequences that stand one behind
// the other. Source: Rabiner 1989, "A tutorial on hidden Markov models".
#pragma once

#include <cstdint>

namespace fastvi {

struct HiddenMarkov {
  std::int64_t sequences, states;
  const std::int64_t* starts;                // (sequences + 1,): the rows of each, none of them empty
  const double* log_densities;               // (rows, states)
  const double *log_start, *log_transition;  // (states,), (states, states): from the row's state to the column's
};

struct HiddenMarkovKernels {
  // Writes posterior probabilities of states, (rows, states), and their expected transitions, (states, states), both
  // contiguous; returns the log-likelihood of all sequences. A sequence of probability 0 has posteriors of 0. The same
  // bits for any number of threads.
  static double posteriors(const HiddenMarkov& model, double* posterior, double* transitions);

  // The most probable states of each sequence, (rows,); of equal ones the first.
  static void best_path(const HiddenMarkov& model, std::int64_t* path);
};

}  // namespace fastvi
