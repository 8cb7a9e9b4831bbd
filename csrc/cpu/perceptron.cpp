#include "perceptron.h"

#include <algorithm>
#include <memory>
#include <type_traits>
#include <utility>

#include "narrow_product.h"
#include "parallel.h"
#include "product.h"
#include "tile.h"

namespace fastvi {
namespace {

// What the forward pass kept of a layer.
template <class T>
struct Kept {
  const T *value, *slope;
};

template <class T>
Kept<T> kept(typename PerceptronKernels<T>::Layers active, std::size_t i, bool has_slope, std::int64_t rows,
             const T* memory) {
  const std::int64_t copies = has_slope ? 2 : 1;
  for (std::size_t before = 0; before < i; ++before) memory += copies * rows * active[before].outputs;
  return {memory, has_slope ? memory + rows * active[i].outputs : nullptr};
}

template <class T>
void multiply(const Matrix<T>& left, const Matrix<T>& right, T* out, bool narrow) {
  if constexpr (std::is_same_v<T, float>) {
    if (narrow) return multiply_narrow(left, right, out);
  }
  fastvi::multiply(left, right, out);
}

// Rows that one thread takes through all layers at once: enough that packing the weights for them costs little.
constexpr std::int64_t block_rows = 256;
// With fewer rows for each thread the threads share each product instead, so that they pack its weights once.
constexpr std::int64_t least_rows = 96;

// How many blocks the rows are cut into.
std::int64_t num_blocks(std::int64_t rows) {
  const std::int64_t threads = omp_get_max_threads();
  const bool each_takes_blocks = rows >= threads * least_rows;
  const std::int64_t together = each_takes_blocks ? threads : 1;
  return together * ceil_divide(rows, together * block_rows);
}

// The log-likelihoods of rows that begin at row `first` of all: those up to the end of a sample, whole samples, and the
// beginning of the last one.
template <class T>
void block_log_prob(std::int64_t first, std::int64_t rows, std::int64_t columns, T* logits, const T* bias,
                    std::int64_t batch, const T* x, T* out) {
  while (rows > 0) {
    const std::int64_t place = first % batch;
    const bool is_whole = place == 0 && rows >= batch;
    const std::int64_t samples = is_whole ? rows / batch : 1;
    const std::int64_t of_sample = is_whole ? batch : std::min(batch - place, rows);
    BernoulliHeadKernels<T>::bernoulli_epilogue({samples, of_sample, columns}, logits, bias,
                                                {x + place * columns, 0, columns}, false, out);
    const std::int64_t done = samples * of_sample;
    first += done;
    rows -= done;
    logits += done * columns;
    out += done;
  }
}

}  // namespace

template <class T>
std::int64_t PerceptronKernels<T>::kept_columns(Layers active, Activation activation) {
  std::int64_t columns = 0;
  for (const auto& layer : active) columns += layer.outputs;
  return keeps_slope(activation) ? 2 * columns : columns;
}

template <class T>
const T* PerceptronKernels<T>::activate(Layers active, Activation activation, std::int64_t rows, const T* x, T* memory,
                                        bool narrow) {
  const bool has_slope = keeps_slope(activation);
  for (const auto& layer : active) {
    T* const value = memory;
    memory += rows * layer.outputs;
    T* const slope = has_slope ? memory : nullptr;
    if (has_slope) memory += rows * layer.outputs;
    multiply(Matrix<T>(x, rows, layer.inputs), Matrix<T>(layer.weight, layer.outputs, layer.inputs).transposed(), value,
             narrow);
    LayerKernels<T>::activate(rows, layer.outputs, activation, value, layer.bias, slope, nullptr);
    x = value;
  }
  return x;
}

template <class T>
void PerceptronKernels<T>::linear(const PerceptronLayer<T>& layer, std::int64_t rows, const T* x, T* out, bool narrow) {
  multiply(Matrix<T>(x, rows, layer.inputs), Matrix<T>(layer.weight, layer.outputs, layer.inputs).transposed(), out,
           narrow);
  if (layer.bias == nullptr) return;
  LayerKernels<T>::activate(rows, layer.outputs, Activation::identity, out, layer.bias, nullptr, nullptr);
}

template <class T>
void PerceptronKernels<T>::bernoulli_log_prob(Layers layers, Activation activation, std::int64_t rows, const T* z,
                                              std::int64_t batch, const T* x, T* out, bool narrow) {
  const auto& head = layers.back();
  std::int64_t widest = 0;  // of the hidden layers, of which two are there at once
  double work = 0;
  for (const auto& layer : layers) {
    if (&layer != &head) widest = std::max(widest, layer.outputs);
    work += static_cast<double>(layer.inputs) * static_cast<double>(layer.outputs) * nanoseconds_per_product;
  }
  const std::int64_t blocks = num_blocks(rows), most_rows = ceil_divide(rows, blocks);
  const std::int64_t threads = omp_get_max_threads(), size = most_rows * (2 * widest + head.outputs);
  const auto memory = std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(std::min(threads, blocks) * size));
  const auto block = [&](std::int64_t item) {
    const std::int64_t first = part_start(rows, blocks, item), count = part_start(rows, blocks, item + 1) - first;
    T* const own = memory.get() + (blocks < threads ? 0 : omp_get_thread_num()) * size;
    T* values[2] = {own, own + most_rows * widest};
    const T* inputs = z + first * layers.front().inputs;
    for (const auto& layer : layers.first(layers.size() - 1)) {
      const PerceptronLayer<T> product{layer.weight, nullptr, layer.inputs, layer.outputs, nullptr, nullptr};
      linear(product, count, inputs, values[0], narrow);
      LayerKernels<T>::activate(count, layer.outputs, activation, values[0], layer.bias, nullptr, nullptr);
      inputs = values[0];
      std::swap(values[0], values[1]);
    }
    T* const logits = own + 2 * most_rows * widest;
    linear({head.weight, nullptr, head.inputs, head.outputs, nullptr, nullptr}, count, inputs, logits, narrow);
    block_log_prob(first, count, head.outputs, logits, head.bias, batch, x, out + first);
  };
  if (blocks < threads) return for_range(0, blocks, block);
  parallel_for(blocks, static_cast<std::int64_t>(static_cast<double>(rows) * work), block);
}

template <class T>
const T* PerceptronKernels<T>::last_value(Layers active, Activation activation, std::int64_t rows, const T* x,
                                          const T* memory) {
  return active.empty() ? x : kept<T>(active, active.size() - 1, keeps_slope(activation), rows, memory).value;
}

template <class T>
void PerceptronKernels<T>::linear_backward(const PerceptronLayer<T>& layer, std::int64_t rows, const T* x,
                                           const T* upstream, const T* scale, T* x_gradient, bool narrow) {
  const Matrix<T> by_product(upstream, rows, layer.outputs);
  if (layer.weight_gradient != nullptr) {
    multiply(by_product.transposed(), Matrix<T>(x, rows, layer.inputs), layer.weight_gradient, narrow);
  }
  if (layer.bias_gradient != nullptr) {
    SumKernels<T>::axis_sum({1, rows, layer.outputs}, upstream, scale, layer.bias_gradient);
  }
  if (x_gradient != nullptr) {
    multiply(by_product, Matrix<T>(layer.weight, layer.outputs, layer.inputs), x_gradient, narrow);
  }
}

template <class T>
void PerceptronKernels<T>::activate_backward(Layers active, Activation activation, std::int64_t rows, const T* x,
                                             const T* memory, T* gradient, const T* scale, T* scaled, T* x_gradient,
                                             bool narrow) {
  const bool has_slope = keeps_slope(activation);
  std::unique_ptr<T[]> passed[2];  // the gradient by a layer, while that by the layer before is made of it
  for (std::size_t i = active.size(); i-- > 0;) {
    const auto& layer = active[i];
    const Kept<T> own = kept<T>(active, i, has_slope, rows, memory);
    const T* const before = i == 0 ? x : kept<T>(active, i - 1, has_slope, rows, memory).value;
    LayerKernels<T>::gradient(rows, layer.outputs, activation, gradient, own.value, own.slope, scale, scaled,
                              layer.bias_gradient);
    scale = scaled = nullptr;
    const Matrix<T> by_product(gradient, rows, layer.outputs);
    if (layer.weight_gradient != nullptr) {
      multiply(by_product.transposed(), Matrix<T>(before, rows, layer.inputs), layer.weight_gradient, narrow);
    }
    T* next = x_gradient;
    if (i > 0) {
      auto& memory_of_next = passed[i % 2];
      memory_of_next = std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(rows * layer.inputs));
      next = memory_of_next.get();
    }
    if (next == nullptr) return;
    multiply(by_product, Matrix<T>(layer.weight, layer.outputs, layer.inputs), next, narrow);
    gradient = next;
  }
}

template struct PerceptronKernels<float>;
template struct PerceptronKernels<double>;

}  // namespace fastvi
