#include "perceptron.h"

#include <algorithm>
#include <memory>
#include <type_traits>

#include "narrow_product.h"
#include "product.h"

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
