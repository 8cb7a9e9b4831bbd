// The activation functions of perceptrons, and their slopes.
#pragma once

#include <cmath>

#include "exp.h"
#include "logistic.h"

namespace fastvi {

// (tanh(x) - x) / x^3 as a minimax polynomial in x^2, for |x| <= 0.55.
FASTVI_HD float tanh_tail(float square) {
  return polynomial(square, -0.333333320F, 0.133331107F, -0.0539088417F, 0.0213057919F, -0.00660347376F);
}
FASTVI_HD double tanh_tail(double square) {
  return polynomial(square, -0.33333333333333333, 0.13333333333332693, -0.053968253967408655, 0.021869488492510940,
                    -0.0088632343711986176, 0.0035921100283635909, -0.0014556590344968792, 0.00058892229487255424,
                    -0.00023459396263002804, 8.5046409816780455e-5, -2.0556481227849428e-5);
}

// x + x^3 p(x^2) where that is small, else 1 - 2e / (1 + e) with e = e^(-2|x|), which does not overflow.
template <class T>
FASTVI_HD T tanh(T x) {
  const T e = exp_nonpositive(T(-2) * std::fabs(x));
  const T large = T(1) - T(2) * e / (T(1) + e);
  const T square = x * x;
  const T small = x + x * square * tanh_tail(square);
  return std::fabs(x) < T(0.55) ? small : std::copysign(large, x);
}

// Of activations whose slope follows from their value, `slope(value)`; of the others `value_and_slope(x)`, for the
// slope then has to be kept.
template <class T>
struct ValueAndSlope {
  T value, slope;
};

template <class T>
struct Identity {
  static constexpr bool keeps_slope = false;
  static constexpr double cost = 0.1;
  FASTVI_HD static T value(T x) { return x; }
  FASTVI_HD static T slope(T) { return T(1); }
};

template <class T>
struct Tanh {
  static constexpr bool keeps_slope = false;
  static constexpr double cost = 0.4;
  FASTVI_HD static T value(T x) { return tanh(x); }
  FASTVI_HD static T slope(T value) { return (T(1) - value) * (T(1) + value); }
};

template <class T>
struct Sigmoid {
  static constexpr bool keeps_slope = false;
  static constexpr double cost = 0.4;
  FASTVI_HD static T value(T x) { return sigmoid(x); }
  FASTVI_HD static T slope(T value) { return value * (T(1) - value); }
};

// NaN stays NaN, and the slope at zero is zero.
template <class T>
struct Relu {
  static constexpr bool keeps_slope = false;
  static constexpr double cost = 0.1;
  FASTVI_HD static T value(T x) { return x < T(0) ? T(0) : x; }
  FASTVI_HD static T slope(T value) { return value <= T(0) ? T(0) : T(1); }
};

template <class T>
struct Softplus {
  static constexpr bool keeps_slope = false;
  static constexpr double cost = 0.5;
  FASTVI_HD static T value(T x) { return softplus(x); }
  FASTVI_HD static T slope(T value) { return -expm1(-value); }
};

template <class T>
struct Elu {
  static constexpr bool keeps_slope = false;
  static constexpr double cost = 0.4;
  FASTVI_HD static T value(T x) {
    const T below = expm1(x < T(0) ? x : T(0));
    return x <= T(0) ? below : x;
  }
  FASTVI_HD static T slope(T value) { return value <= T(0) ? T(1) + value : T(1); }
};

template <class T>
struct Silu {
  static constexpr bool keeps_slope = true;
  static constexpr double cost = 0.5;
  FASTVI_HD static ValueAndSlope<T> value_and_slope(T x) {
    const T probability = sigmoid(x);
    const T value = x * probability;
    return {value, probability + value * (T(1) - probability)};
  }
};

// The normal distribution function far below zero is e^(-x^2 / 2) t q(t) / 2 with t = 1 / (1 + scale |x|), q a
// polynomial in the t's that there are before the exponential vanishes, brought to [-1, 1]: q(t) = erfcx(|x| / sqrt 2)
// / t.
template <class T>
struct NormalTail;

template <>
struct NormalTail<float> {
  static constexpr float scale = 0.282842716F, step = 2.48543689F, start = -1.48543689F;
  FASTVI_HD static float ratio(float w) {
    return polynomial(w, 0.491928153F, 0.322627023F, 0.145050587F, 0.0395002803F, 0.00294877260F, -0.00180932489F,
                      -0.000379911048F, 0.000117130659F, 2.64135764e-5F, -9.12355231e-6F);
  }
};

template <>
struct NormalTail<double> {
  static constexpr double scale = 0.21213203435596425, step = 2.2424242424242424, start = -1.2424242424242424;
  FASTVI_HD static double ratio(double w) {
    return polynomial(w, 0.35735567676938774, 0.28894440991287314, 0.19214242725806573, 0.10347251065307432,
                      0.043497092418856615, 0.013063193042209324, 0.0020389646804461234, -0.00028609105693619397,
                      -0.00022600047961482674, -2.1461568260114162e-5, 1.6910485950718619e-5, 4.0730154663853615e-6,
                      -1.3798087998397568e-6, -5.0532912923391371e-7, 1.4482751151900578e-7, 5.7784477413420464e-8,
                      -1.9592261798342198e-8, -6.1099547509012737e-9, 2.9645395308580816e-9, 5.2959403411482762e-10,
                      -4.0411842241762464e-10, -2.7257759687786956e-11, 3.3880356404788063e-11);
  }
};

// x times the normal distribution function of x.
template <class T>
struct Gelu {
  static constexpr bool keeps_slope = true;
  static constexpr double cost = 0.8;
  FASTVI_HD static ValueAndSlope<T> value_and_slope(T x) {
    using Tail = NormalTail<T>;
    constexpr T density_at_zero = T(0.398942280401432677939946059934381868);
    const T exponential = exp_nonpositive(T(-0.5) * x * x);
    const T t = T(1) / (T(1) + Tail::scale * std::fabs(x));
    const T tail = T(0.5) * exponential * (t * Tail::ratio(Tail::step * t + Tail::start));
    const T below = x < T(0) ? tail : T(1) - tail;
    return {x * below, below + x * (density_at_zero * exponential)};
  }
};

enum class Activation : int { identity, tanh, sigmoid, relu, softplus, elu, silu, gelu };
inline constexpr int num_activations = 8;

// Calls use.template operator()<Formula>().
template <class T, class Use>
void with_activation(Activation activation, const Use& use) {
  switch (activation) {
    case Activation::identity:
      return use.template operator()<Identity<T>>();
    case Activation::tanh:
      return use.template operator()<Tanh<T>>();
    case Activation::sigmoid:
      return use.template operator()<Sigmoid<T>>();
    case Activation::relu:
      return use.template operator()<Relu<T>>();
    case Activation::softplus:
      return use.template operator()<Softplus<T>>();
    case Activation::elu:
      return use.template operator()<Elu<T>>();
    case Activation::silu:
      return use.template operator()<Silu<T>>();
    case Activation::gelu:
      return use.template operator()<Gelu<T>>();
  }
}

// Whether the forward pass keeps the slope.
inline bool keeps_slope(Activation activation) {
  bool found = false;
  with_activation<float>(activation, [&]<class Formula> { found = Formula::keeps_slope; });
  return found;
}

}  // namespace fastvi
