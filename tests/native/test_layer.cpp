// The passes that follow the matrix products of a perceptron's layer, against their formulas.
#include "../../csrc/formulas/activation.h"
#include "check.h"

namespace fastvi::test {
namespace {

const char* const names[] = {"identity", "tanh", "sigmoid", "relu", "softplus", "elu", "silu", "gelu"};
static_assert(std::size(names) == num_activations);

struct ExactValue {
  Exact value, slope;
};

ExactValue activation_exact(Activation activation, Exact x) {
  const Exact probability = 1 / (1 + std::exp(-x));
  const Exact below = std::erfc(-x * std::sqrt(Exact{0.5})) / 2;
  const Exact density = std::exp(-x * x / 2) / std::sqrt(4 * std::acos(Exact{0}));
  switch (activation) {
    case Activation::identity:
      return {x, 1};
    case Activation::tanh:
      return {std::tanh(x), 1 / (std::cosh(x) * std::cosh(x))};
    case Activation::sigmoid:
      return {probability, probability * (1 - probability)};
    case Activation::relu:
      return {x > 0 ? x : 0, x > 0 ? Exact{1} : 0};
    case Activation::softplus:
      return {std::max(x, Exact{0}) + std::log1p(std::exp(-std::fabs(x))), probability};
    case Activation::elu:
      return {x > 0 ? x : std::expm1(x), x > 0 ? 1 : std::exp(x)};
    case Activation::silu:
      return {x * probability, probability * (1 + x * (1 - probability))};
    case Activation::gelu:
      return {x * below, below + x * density};
  }
  return {};
}

// Every remainder of a vector, and the seams: 64 rows or 512 columns on the CPU, 512 columns and more rows than a grid
// has warps on the stand-in.
struct Shape {
  std::int64_t rows, columns;
};
const Shape shapes[] = {{0, 5}, {3, 0}, {1, 1}, {3, 7}, {2, 16}, {70, 33}, {130, 9}, {2, 513}, {65, 1100}, {700, 12}};

std::string describe(Activation activation, const Shape& shape) {
  return std::string(names[static_cast<int>(activation)]) + " (" + std::to_string(shape.rows) + ", " +
         std::to_string(shape.columns) + ")";
}

template <class T>
std::vector<T> scaled_normal(Random<T>& random, std::int64_t count, T factor) {
  std::vector<T> values = random.normal(count);
  for (T& value : values) value *= factor;
  return values;
}

template <class T>
void check_forward(Activation activation, const Shape& shape, Random<T>& random) {
  const auto [rows, columns] = shape;
  const std::vector<T> product = scaled_normal(random, rows * columns, T(3)), bias = random.normal(columns);
  for (const bool biased : {false, true}) {
    const std::string what = describe(activation, shape) + (biased ? ", biased" : "");
    std::vector<Bounded> values(product.size()), slopes(product.size());
    for (std::size_t i = 0; i < product.size(); ++i) {
      const Exact x = exact(product[i]), shift = biased ? exact(bias[i % static_cast<std::size_t>(columns)]) : 0;
      const ExactValue found = activation_exact(activation, x + shift);
      const Exact rounding = std::fabs(x) + std::fabs(shift);
      // The slope tells what the argument's rounding does, second derivatives, which are below 2, what it does to the
      // slope. What is less than a normal number has fewer digits.
      values[i].add(found.value,
                    std::fabs(found.value) + std::fabs(found.slope) * rounding + std::numeric_limits<T>::min());
      slopes[i].add(found.slope, 1 + rounding);
    }
    for (const bool keep : {false, true}) {
      std::vector<T> slope, copy;
      const std::vector<T> value = on_any_threads(what, [&] {
        std::vector<T> out = product;
        slope = copy = unwritten<T>(product.size());
        LayerKernels<T>::activate(rows, columns, activation, out.data(), biased ? bias.data() : nullptr,
                                  keep ? slope.data() : nullptr, keep ? copy.data() : nullptr);
        return out;
      });
      check_close(value, values, 1, what);
      if (keep) check(same_bits(value, copy), what + ": the copy differs");
      if (keep && keeps_slope(activation)) check_close(slope, slopes, 1, what + ", slope");
    }
  }
}

// The slope that follows from a value.
Exact slope_of_value(Activation activation, Exact value) {
  switch (activation) {
    case Activation::tanh:
      return (1 - value) * (1 + value);
    case Activation::sigmoid:
      return value * (1 - value);
    case Activation::relu:
      return value > 0 ? 1 : 0;
    case Activation::softplus:
      return -std::expm1(-value);
    case Activation::elu:
      return value > 0 ? 1 : 1 + value;
    default:
      return 1;
  }
}

template <class T>
void check_backward(Activation activation, const Shape& shape, Random<T>& random) {
  const auto [rows, columns] = shape;
  const std::vector<T> upstream = random.normal(rows * columns), scale = random.normal(rows);
  const std::vector<T> slope = random.normal(rows * columns);
  std::vector<T> value = scaled_normal(random, rows * columns, T(3));
  LayerKernels<T>::activate(rows, columns, activation, value.data(), nullptr, nullptr, nullptr);
  for (const bool with_scale : {false, true}) {
    const std::string what = describe(activation, shape) + " gradient" + (with_scale ? ", scaled" : "");
    std::vector<Bounded> gradients(value.size()), multiples(value.size());
    std::vector<Bounded> sums(static_cast<std::size_t>(columns));
    for (std::size_t i = 0; i < value.size(); ++i) {
      const Exact own = exact(value[i]), by = with_scale ? exact(scale[i / static_cast<std::size_t>(columns)]) : 1;
      const Exact factor = keeps_slope(activation) ? exact(slope[i]) : slope_of_value(activation, own);
      const Exact found = by * exact(upstream[i]) * factor;
      gradients[i].add(found, std::fabs(found));
      multiples[i].add(by * own, std::fabs(by * own) + std::numeric_limits<T>::min());
      sums[i % static_cast<std::size_t>(columns)].add(found, std::fabs(found));
    }
    for (const bool wanted : {false, true}) {
      std::vector<T> multiplied, sum;
      const std::vector<T> gradient = on_any_threads(what, [&] {
        std::vector<T> out = upstream;
        multiplied = unwritten<T>(value.size());
        sum = unwritten<T>(static_cast<std::size_t>(columns));
        LayerKernels<T>::gradient(rows, columns, activation, out.data(), value.data(),
                                  keeps_slope(activation) ? slope.data() : nullptr, with_scale ? scale.data() : nullptr,
                                  wanted ? multiplied.data() : nullptr, wanted && rows > 0 ? sum.data() : nullptr);
        return out;
      });
      check_close(gradient, gradients, 1, what);
      if (!wanted) continue;
      check_close(multiplied, multiples, 1, what + ", multiplied value");
      if (rows > 0) check_close(sum, sums, 16 * std::min<std::int64_t>(rows, 64), what + ", sum");
    }
  }
}

// Zeros, infinities, NaN, and numbers whose exponentials, squares or sums overflow.
template <class T>
void check_extremes(Activation activation) {
  using Limits = std::numeric_limits<T>;
  const T infinity = Limits::infinity(), largest = Limits::max();
  const std::vector<T> x{
      T(0),    -T(0),    Limits::min(), -Limits::min(), Limits::denorm_min(), T(200), T(-200), T(1e4), T(-1e4),
      largest, -largest, infinity,      -infinity,      Limits::quiet_NaN()};
  const auto count = static_cast<std::int64_t>(x.size());
  const std::string what = describe(activation, {1, count}) + " of extremes";
  std::vector<T> value = x, slope = unwritten<T>(x.size()), gradient(x.size(), T(1));
  LayerKernels<T>::activate(1, count, activation, value.data(), nullptr, slope.data(), nullptr);
  LayerKernels<T>::gradient(1, count, activation, gradient.data(), value.data(), slope.data(), nullptr, nullptr,
                            nullptr);
  check(std::isnan(value.back()), what + ": NaN is lost");
  if (keeps_slope(activation)) check(std::isnan(gradient.back()), what + ": the slope of NaN is a number");
  const bool has_limits = !keeps_slope(activation);  // x f(x) is inf * 0 there
  for (std::size_t i = 0; i + 1 < x.size(); ++i) {
    if (std::isinf(x[i]) && !has_limits) continue;
    const ExactValue expected = activation_exact(activation, exact(x[i]));
    const std::string place = what + ": " + std::to_string(x[i]);
    const Exact tolerance = 4 * Limits::epsilon();
    check(static_cast<T>(expected.value) == value[i] ||
              std::fabs(exact(value[i]) - expected.value) <= tolerance * std::fabs(expected.value) + Limits::min(),
          place + " gives " + std::to_string(value[i]));
    // Far out, where the exact formula overflows, the slope is zero or one.
    const bool far_out = std::fabs(x[i]) > 1000;
    const Exact steepness = far_out ? Exact(std::fabs(expected.value) > 1) : expected.slope;
    check(std::fabs(exact(gradient[i]) - steepness) <= tolerance,
          place + " has the slope " + std::to_string(gradient[i]));
  }
}

template <class T>
void check_all() {
  Random<T> random(20131220);
  for (int i = 0; i < num_activations; ++i) {
    const auto activation = static_cast<Activation>(i);
    for (const Shape& shape : shapes) {
      check_forward(activation, shape, random);
      check_backward(activation, shape, random);
    }
    check_extremes<T>(activation);
  }
}

// What the kernels compute on a GPU's memory that is not aligned to vectors.
template <class T>
void check_unaligned() {
  const std::vector<T> product{T(7), T(1), T(-1), T(2), T(-2), T(3), T(-3), T(4), T(-4)};
  std::vector<T> out = product;
  const std::vector<T> bias{T(7), T(1), T(1), T(1), T(1), T(1), T(1), T(1), T(1)};
  LayerKernels<T>::activate(1, 8, Activation::relu, out.data() + 1, bias.data() + 1, nullptr, nullptr);
  check(same_bits(out, {T(7), T(2), T(0), T(3), T(0), T(4), T(0), T(5), T(0)}), "relu of unaligned memory");
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::check_all<float>();
  fastvi::test::check_all<double>();
  fastvi::test::check_unaligned<float>();
  fastvi::test::check_unaligned<double>();
  return fastvi::test::report("layer");
}
