// Matrix products of few rows, and perceptrons made of them, against sums in long double.
#include "../../csrc/cpu/narrow_product.h"
#include "../../csrc/cpu/perceptron.h"
#include "../../csrc/cpu/product.h"
#include "check.h"

namespace fastvi::test {
namespace {

// Every height and width of a tile and of its edge, one block of the inner dimension and two, and rows that are shared
// among threads.
struct Sizes {
  std::int64_t rows, columns, inner;
};
const Sizes sizes[] = {{1, 1, 1},   {0, 5, 3},   {3, 4, 0},     {5, 16, 20},   {6, 64, 33},    {7, 65, 16},
                       {20, 50, 7}, {24, 64, 9}, {25, 130, 31}, {13, 17, 513}, {100, 200, 50}, {61, 3, 1100}};

template <class T>
std::vector<T> turned(const std::vector<T>& matrix, std::int64_t rows, std::int64_t columns) {
  std::vector<T> result(matrix.size());
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      result[static_cast<std::size_t>(j * rows + i)] = matrix[static_cast<std::size_t>(i * columns + j)];
    }
  }
  return result;
}

// The factor that a product takes of a number: rounded where it is narrow.
template <class T>
Exact factor(T number, bool narrow) {
  return narrow ? exact(static_cast<float>(BFloat16(static_cast<float>(number)))) : exact(number);
}

template <class T>
void check_products(Random<T>& random, bool narrow) {
  const auto multiply = [narrow](const Matrix<T>& left, const Matrix<T>& right, T* out) {
    if constexpr (std::is_same_v<T, float>) {
      if (narrow) return multiply_narrow(left, right, out);
    }
    fastvi::multiply(left, right, out);
  };
  for (const auto& [rows, columns, inner] : sizes) {
    const std::vector<T> left = random.normal(rows * inner), right = random.normal(inner * columns);
    std::vector<Bounded> expected(static_cast<std::size_t>(rows * columns));
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) {
        for (std::int64_t k = 0; k < inner; ++k) {
          const Exact term = factor(left[static_cast<std::size_t>(i * inner + k)], narrow) *
                             factor(right[static_cast<std::size_t>(k * columns + j)], narrow);
          expected[static_cast<std::size_t>(i * columns + j)].add(term, std::fabs(term));
        }
      }
    }
    const std::vector<T> left_turned = turned(left, rows, inner), right_turned = turned(right, inner, columns);
    std::vector<T> first;
    for (const bool turns_left : {false, true}) {
      for (const bool turns_right : {false, true}) {
        const std::string what = std::string(narrow ? "narrow " : "") + "product (" + std::to_string(rows) + ", " +
                                 std::to_string(columns) + ", " + std::to_string(inner) + ")" +
                                 (turns_left ? ", left turned" : "") + (turns_right ? ", right turned" : "");
        const Matrix<T> a =
            turns_left ? Matrix<T>(left_turned.data(), inner, rows).transposed() : Matrix<T>(left.data(), rows, inner);
        const Matrix<T> b = turns_right ? Matrix<T>(right_turned.data(), columns, inner).transposed()
                                        : Matrix<T>(right.data(), inner, columns);
        const std::vector<T> found = on_any_threads(what, [&] {
          std::vector<T> out = unwritten<T>(expected.size());
          multiply(a, b, out.data());
          return out;
        });
        check_close(found, expected, inner, what);
        if (first.empty()) first = found;
        check(same_bits(found, first), what + ": the layout changes bits");
      }
    }
    // A row alone has the bits that it has among others.
    if (rows == 0) continue;
    std::vector<T> alone = unwritten<T>(static_cast<std::size_t>(columns));
    multiply(Matrix<T>(left.data() + (rows - 1) * inner, 1, inner), Matrix<T>(right.data(), inner, columns),
             alone.data());
    check(same_bits(alone, std::vector<T>(first.end() - columns, first.end())), "the last row alone");
  }
}

// f = sum(gradient * perceptron(x)) of identity-like layers has derivatives that products alone give; the activations
// themselves are checked in test_layer.cpp.
template <class T>
void check_linear_layers(Random<T>& random) {
  constexpr std::int64_t rows = 9, widths[] = {5, 7, 3};
  const std::vector<T> x = random.normal(rows * 5), first = random.normal(7 * 5), second = random.normal(3 * 7);
  const std::vector<T> shift = random.normal(3), upstream = random.normal(rows * 3), scale = random.normal(rows);
  const PerceptronLayer<T> layer{second.data(), shift.data(), widths[1], widths[2], nullptr, nullptr};
  const std::vector<T> hidden = random.normal(rows * 7);
  std::vector<Bounded> out(rows * 3), by_hidden(rows * 7), by_weight(21), by_bias(3);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t o = 0; o < 3; ++o) {
      out[r * 3 + o].add(exact(shift[o]), std::fabs(exact(shift[o])));
      const Exact grad = exact(upstream[r * 3 + o]);
      by_bias[o].add(grad * exact(scale[r]), std::fabs(grad * exact(scale[r])));
      for (std::size_t i = 0; i < 7; ++i) {
        const Exact weight = exact(second[o * 7 + i]), value = exact(hidden[r * 7 + i]);
        out[r * 3 + o].add(weight * value, std::fabs(weight * value));
        by_hidden[r * 7 + i].add(grad * weight, std::fabs(grad * weight));
        by_weight[o * 7 + i].add(grad * value, std::fabs(grad * value));
      }
    }
  }
  std::vector<T> found = unwritten<T>(out.size()), of_hidden = unwritten<T>(by_hidden.size());
  std::vector<T> of_weight = unwritten<T>(by_weight.size()), of_bias = unwritten<T>(by_bias.size());
  PerceptronKernels<T>::linear(layer, rows, hidden.data(), found.data());
  PerceptronLayer<T> with_gradients = layer;
  with_gradients.weight_gradient = of_weight.data();
  with_gradients.bias_gradient = of_bias.data();
  PerceptronKernels<T>::linear_backward(with_gradients, rows, hidden.data(), upstream.data(), scale.data(),
                                        of_hidden.data());
  check_close(found, out, 16, "linear layer");
  check_close(of_hidden, by_hidden, 16, "its gradient by the hidden units");
  check_close(of_weight, by_weight, 16, "its gradient by the weight");
  check_close(of_bias, by_bias, 16, "its gradient by the bias");

  // A layer with relu whose products are all positive is linear, too.
  const auto positive = [](std::vector<T> values) {
    for (T& value : values) value = std::fabs(value) + T(0.1);
    return values;
  };
  const std::vector<T> inputs = positive(x), weights = positive(first);
  std::vector<T> weight_gradient = unwritten<T>(35), bias_gradient = unwritten<T>(7);
  const PerceptronLayer<T> active[] = {
      {weights.data(), nullptr, widths[0], widths[1], weight_gradient.data(), bias_gradient.data()}};
  std::vector<T> memory = unwritten<T>(rows * 7), gradient = random.normal(rows * 7), scaled = unwritten<T>(rows * 7);
  std::vector<T> x_gradient = unwritten<T>(rows * 5);
  const std::vector<T> given = gradient;
  const T* const last = PerceptronKernels<T>::activate(active, Activation::relu, rows, inputs.data(), memory.data());
  check(last == memory.data(), "the last values are where they are kept");
  check(PerceptronKernels<T>::last_value(active, Activation::relu, rows, inputs.data(), memory.data()) == last,
        "and are found again");
  PerceptronKernels<T>::activate_backward(active, Activation::relu, rows, inputs.data(), memory.data(), gradient.data(),
                                          scale.data(), scaled.data(), x_gradient.data());
  std::vector<Bounded> by_x(rows * 5), by_first(35), by_first_bias(7), values(rows * 7);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t o = 0; o < 7; ++o) {
      const Exact grad = exact(given[r * 7 + o]) * exact(scale[r]);
      by_first_bias[o].add(grad, std::fabs(grad));
      for (std::size_t i = 0; i < 5; ++i) {
        const Exact weight = exact(weights[o * 5 + i]), input = exact(inputs[r * 5 + i]);
        values[r * 7 + o].add(weight * input * exact(scale[r]), std::fabs(weight * input * exact(scale[r])));
        by_x[r * 5 + i].add(grad * weight, std::fabs(grad * weight));
        by_first[o * 5 + i].add(grad * input, std::fabs(grad * input));
      }
    }
  }
  check_close(scaled, values, 16, "values times the rows' factors");
  check_close(x_gradient, by_x, 16, "gradient by x");
  check_close(weight_gradient, by_first, 16, "gradient by the first weight");
  check_close(bias_gradient, by_first_bias, 16, "gradient by the first bias");
}

// All layers at once, for one block of rows, several for each thread, and batches that end inside a block, have the
// bits of the kernels that they are made of, one after the other.
template <class T>
void check_likelihood(Random<T>& random, Activation activation, bool narrow) {
  constexpr std::int64_t inputs = 5, hidden = 19, wider = 33, columns = 70;
  const std::vector<T> first = random.normal(hidden * inputs), second = random.normal(wider * hidden);
  const std::vector<T> last = random.normal(columns * wider), shift = random.normal(wider),
                       bias = random.normal(columns);
  const PerceptronLayer<T> layers[] = {{first.data(), nullptr, inputs, hidden, nullptr, nullptr},
                                       {second.data(), shift.data(), hidden, wider, nullptr, nullptr},
                                       {last.data(), bias.data(), wider, columns, nullptr, nullptr}};
  const std::span<const PerceptronLayer<T>> all(layers), active = all.first(2);
  PerceptronLayer<T> head = layers[2];
  head.bias = nullptr;
  struct Rows {
    std::int64_t samples, batch;
  };
  for (const auto& [samples, batch] : {Rows{1, 1}, Rows{3, 7}, Rows{700, 1}, Rows{1, 301}, Rows{13, 100}}) {
    const std::int64_t rows = samples * batch;
    const std::string what = "likelihood of (" + std::to_string(samples) + ", " + std::to_string(batch) + ") rows";
    const std::vector<T> z = random.normal(rows * inputs);
    std::vector<T> x = random.normal(batch * columns);
    for (T& value : x) value = value > T(0) ? T(1) : T(0);
    std::vector<T> memory = unwritten<T>(
                       static_cast<std::size_t>(rows * PerceptronKernels<T>::kept_columns(active, activation))),
                   logits = unwritten<T>(static_cast<std::size_t>(rows * columns)),
                   expected = unwritten<T>(static_cast<std::size_t>(rows));
    const T* const values = PerceptronKernels<T>::activate(active, activation, rows, z.data(), memory.data(), narrow);
    PerceptronKernels<T>::linear(head, rows, values, logits.data(), narrow);
    BernoulliHeadKernels<T>::bernoulli_epilogue({samples, batch, columns}, logits.data(), bias.data(),
                                                {x.data(), 0, columns}, false, expected.data());
    const std::vector<T> found = on_any_threads(what, [&] {
      std::vector<T> out = unwritten<T>(expected.size());
      PerceptronKernels<T>::bernoulli_log_prob(all, activation, rows, z.data(), batch, x.data(), out.data(), narrow);
      return out;
    });
    check(same_bits(found, expected), what + ": other bits than layer by layer");
  }
}

}  // namespace
}  // namespace fastvi::test

int main() {
  using namespace fastvi::test;
  Random<float> floats(20140501);
  Random<double> doubles(20140502);
  check_products(floats, false);
  check_products(doubles, false);
  if (fastvi::has_narrow_products()) check_products(floats, true);
  check_linear_layers(floats);
  check_linear_layers(doubles);
  for (const auto activation : {fastvi::Activation::tanh, fastvi::Activation::gelu}) {
    check_likelihood(floats, activation, false);
    check_likelihood(doubles, activation, false);
    if (fastvi::has_narrow_products()) check_likelihood(floats, activation, true);
  }
  return report("perceptron");
}
