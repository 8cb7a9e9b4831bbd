// The scalar functions by name, so that a test can run each of them in the vectorised loop the library itself uses.
#pragma once

#include <cstdint>
#include <string_view>

#include "activation.h"
#include "exp.h"
#include "gamma.h"
#include "log.h"
#include "logistic.h"
#include "sincos.h"

namespace fastvi {

// Calls visit(name, function) for every T -> T function.
template <class T, class Visitor>
void for_each_unary(Visitor&& visit) {
  visit("exp", [](T x) { return exp(x); });
  visit("exp_nonpositive", [](T x) { return exp_nonpositive(x); });
  visit("scale_by_exp", [](T x) { return scale_by_exp(T(1), x).linear; });
  visit("scale_square_by_exp", [](T x) { return scale_by_exp(T(1), x).square; });
  visit("expm1", [](T x) { return expm1(x); });
  visit("exp_minus_1_minus", [](T x) { return exp_minus_1_minus(x); });
  visit("log", [](T x) { return log(x); });
  visit("log1p", [](T x) { return log1p(x); });
  visit("log1p_unit", [](T x) { return log1p_unit(x); });
  visit("softplus", [](T x) { return softplus(x); });
  visit("log_gamma", [](T x) { return log_gamma(x); });
  visit("digamma", [](T x) { return digamma(x); });
  visit("tanh", [](T x) { return tanh(x); });
  visit("sigmoid", [](T x) { return sigmoid(x); });
}

// The same for the std::uint32_t -> T functions.
template <class T, class Visitor>
void for_each_of_word(Visitor&& visit) {
  visit("neg_log_uniform", [](std::uint32_t word) { return neg_log_uniform<T>(word); });
  visit("sin_turn", [](std::uint32_t turn) {
    T sine, cosine;
    sincos_turn(turn, sine, cosine);
    return sine;
  });
  visit("cos_turn", [](std::uint32_t turn) {
    T sine, cosine;
    sincos_turn(turn, sine, cosine);
    return cosine;
  });
}

template <class Input, class T, class Function>
void evaluate_each(Function function, const Input* input, T* output, std::int64_t count) {
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) output[i] = function(input[i]);
}

// Evaluates the function called `name`; false when there is none. `input` is T, or std::uint32_t for the functions of a
// word.
template <class T>
bool evaluate(std::string_view name, const void* input, T* output, std::int64_t count) {
  bool found = false;
  for_each_unary<T>([&](std::string_view candidate, auto function) {
    if (candidate != name) return;
    evaluate_each(function, static_cast<const T*>(input), output, count);
    found = true;
  });
  for_each_of_word<T>([&](std::string_view candidate, auto function) {
    if (candidate != name) return;
    evaluate_each(function, static_cast<const std::uint32_t*>(input), output, count);
    found = true;
  });
  return found;
}

}  // namespace fastvi
