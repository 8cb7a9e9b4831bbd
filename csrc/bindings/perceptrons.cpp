// Perceptrons of few rows, as native functions that do all layers at once: of the CPU's modules alone. They return
// NotImplemented for what they are not made for, and Python, which then takes layer by layer, for what has to be
// refused.
#include "perceptrons.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "../cpu/narrow_product.h"
#include "../cpu/perceptron.h"
#include "call.h"

namespace fastvi {
namespace {

namespace py = pybind11;

constexpr std::size_t max_layers = 4;
constexpr std::int64_t most_rows = 512, most_narrow_rows = 2048;

// The last argument of all functions, `narrow`: whether the factors of the products are rounded to bfloat16.
bool is_narrow(PyObject* argument) { return argument == Py_True; }

bool runs(bool narrow, DType dtype) { return !narrow || (dtype == DType::float32 && has_narrow_products()); }

py::object not_implemented() { return answer(Route::other); }

// The tensors of a call: contiguous, of one dtype that is that of the arithmetic. (Call has room for fewer, and refuses
// what it cannot read.)
class Tensors {
 public:
  // Whether it can be read: None, too, where it is `optional`.
  bool read(PyObject* object, bool optional = false) {
    Operand& operand = operands_[count_++];
    if (object == Py_None && optional) return true;
    if (!operand.read(object) || operand.library() != Library::torch || operand.device().type != backend_device) {
      return false;
    }
    const DType dtype = operands_[0].dtype();
    return (dtype == DType::float32 || dtype == DType::float64) && operand.dtype() == dtype && operand.is_contiguous();
  }

  const Operand& operator[](std::size_t i) const { return operands_[i]; }
  DType dtype() const { return operands_[0].dtype(); }

  Result result(std::span<const std::int64_t> shape) const {
    return {Library::torch, dtype(), operands_[0].device(), shape};
  }

  // Calls kernels.operator()<T>() without the GIL.
  template <class Kernels>
  void run(const Kernels& kernels) const {
    adopt_thread_count();
    const py::gil_scoped_release release;
    if (dtype() == DType::float64) {
      kernels.template operator()<double>();
    } else {
      kernels.template operator()<float>();
    }
  }

 private:
  std::size_t count_ = 0;
  std::array<Operand, 16> operands_;
};

// Weights and biases of the layers, which stand behind the other tensors of a call from place `first` on.
struct Layers {
  const Tensors& tensors;
  std::size_t first, count = 0;
  Activation activation{};

  // Reads them for inputs of `features`; false where they do not follow each other, or a layer is empty.
  bool read(Tensors& all, Arguments parameters, PyObject* number, std::int64_t features) {
    for (std::size_t i = 0; i < 2 * max_layers; ++i) {
      if (!all.read(parameters[i], true)) return false;
    }
    while (count < max_layers && weight(count).given()) {
      const auto shape = weight(count).shape();
      if (shape.size() != 2 || shape[1] != features || shape[0] == 0) return false;
      features = shape[0];
      if (bias(count).given() && (bias(count).shape().size() != 1 || bias(count).shape()[0] != features)) return false;
      ++count;
    }
    const std::int64_t index = PyLong_AsLongLong(number);
    activation = static_cast<Activation>(index);
    return count > 0 && index > 0 && index < num_activations;
  }

  const Operand& weight(std::size_t i) const { return tensors[first + 2 * i]; }
  const Operand& bias(std::size_t i) const { return tensors[first + 2 * i + 1]; }
  std::int64_t outputs(std::size_t i) const { return weight(i).shape()[0]; }
  std::int64_t features() const { return outputs(count - 1); }

  // As the kernels see them; gradients[2 i] and [2 i + 1] are those of layer i.
  template <class T>
  std::array<PerceptronLayer<T>, max_layers> typed(std::span<const Result> gradients = {}) const {
    std::array<PerceptronLayer<T>, max_layers> layers{};
    for (std::size_t i = 0; i < count; ++i) {
      layers[i] = {static_cast<const T*>(weight(i).data()),
                   static_cast<const T*>(bias(i).data()),
                   weight(i).shape()[1],
                   outputs(i),
                   gradients.empty() ? nullptr : static_cast<T*>(gradients[2 * i].data()),
                   gradients.empty() ? nullptr : static_cast<T*>(gradients[2 * i + 1].data())};
    }
    return layers;
  }

  // Numbers that are kept of a row of the first `active` layers.
  std::int64_t kept_columns(std::size_t active) const {
    const auto layers = typed<float>();
    return PerceptronKernels<float>::kept_columns({layers.data(), active}, activation);
  }

  // Whether a gradient is needed of what was not given.
  bool lacks(const std::vector<bool>& needs, std::size_t from) const {
    for (std::size_t i = 0; i < 2 * max_layers; ++i) {
      if (needs[from + i] && !tensors[first + i].given()) return true;
    }
    return false;
  }

  // Memory for the gradients that are needed.
  std::array<Result, 2 * max_layers> gradients(const std::vector<bool>& needs, std::size_t from) const {
    std::array<Result, 2 * max_layers> found;
    for (std::size_t i = 0; i < 2 * count; ++i) {
      if (needs[from + i]) found[i] = tensors.result(tensors[first + i].shape());
    }
    return found;
  }
};

// The rows that a tensor of features has, where they are neither none nor too many.
std::optional<std::int64_t> few_rows(const Operand& x, bool narrow) {
  if (x.shape().empty()) return std::nullopt;
  const std::int64_t rows = product(x.shape().first(x.shape().size() - 1));
  const bool fits = rows > 0 && rows <= (narrow ? most_narrow_rows : most_rows) && x.shape().back() > 0;
  return fits ? std::optional(rows) : std::nullopt;
}

Sizes with_last(std::span<const std::int64_t> shape, std::int64_t last) {
  Sizes result(shape);
  result[result.rank - 1] = last;
  return result;
}

// A gradient for each argument, None where there is none.
py::tuple released(std::initializer_list<Result*> first, std::span<Result> parameters) {
  py::tuple all(first.size() + parameters.size());
  std::size_t place = 0;
  const auto add = [&](Result& each) { all[place++] = each.given() ? each.release() : py::object(py::none()); };
  for (Result* const each : first) add(*each);
  for (Result& each : parameters) add(each);
  return all;
}

bool any(const std::vector<bool>& needs, std::size_t end) {
  return std::find(needs.begin(), needs.begin() + static_cast<std::ptrdiff_t>(end), true) !=
         needs.begin() + static_cast<std::ptrdiff_t>(end);
}

// perceptron(x, 8 parameters, activation, activate_last, narrow) -> out, memory
py::object forward(Arguments arguments) {
  Tensors tensors;
  if (!tensors.read(arguments[0])) return not_implemented();
  const Operand& x = tensors[0];
  const bool narrow = is_narrow(arguments[11]);
  const auto rows = few_rows(x, narrow);
  Layers layers{tensors, 1};
  if (!rows || !runs(narrow, tensors.dtype()) ||
      !layers.read(tensors, arguments.subspan(1), arguments[9], x.shape().back())) {
    return not_implemented();
  }
  const bool activate_last = arguments[10] == Py_True;
  const std::size_t active = activate_last ? layers.count : layers.count - 1;
  const std::int64_t kept[] = {*rows * layers.kept_columns(active)};
  Result out = tensors.result(with_last(x.shape(), layers.features())), memory = tensors.result(kept);
  tensors.run([&]<class T> {
    const auto typed = layers.typed<T>();
    const T* const last =
        PerceptronKernels<T>::activate({typed.data(), active}, layers.activation, *rows,
                                       static_cast<const T*>(x.data()), static_cast<T*>(memory.data()), narrow);
    if (activate_last) {
      std::copy_n(last, *rows * layers.features(), static_cast<T*>(out.data()));
    } else {
      PerceptronKernels<T>::linear(typed[active], *rows, last, static_cast<T*>(out.data()), narrow);
    }
  });
  return py::make_tuple(out.release(), memory.release());
}

// perceptron_backward(gradient, x, 8 parameters, memory, activation, activate_last, needs, narrow) -> 9 gradients
py::object backward(Arguments arguments) {
  const auto needs = read_needs("mlp", arguments[13], 9);
  Tensors tensors;
  if (!tensors.read(arguments[0]) || !tensors.read(arguments[1])) return not_implemented();
  const Operand &upstream = tensors[0], &x = tensors[1];
  const bool narrow = is_narrow(arguments[14]);
  const auto rows = few_rows(x, narrow);
  Layers layers{tensors, 2};
  if (!rows || !runs(narrow, tensors.dtype()) ||
      !layers.read(tensors, arguments.subspan(2), arguments[11], x.shape().back()) || !tensors.read(arguments[10])) {
    return not_implemented();
  }
  const Operand& memory = tensors[10];
  const bool activate_last = arguments[12] == Py_True;
  const std::size_t active = activate_last ? layers.count : layers.count - 1;
  if (layers.lacks(needs, 1) || !equal(upstream.shape(), with_last(x.shape(), layers.features())) ||
      memory.elements() != *rows * layers.kept_columns(active)) {
    return not_implemented();
  }
  auto gradients = layers.gradients(needs, 1);
  Result by_x;
  if (needs[0]) by_x = tensors.result(x.shape());
  const bool goes_on = any(needs, 1 + 2 * active);
  tensors.run([&]<class T> {
    using Kernels = PerceptronKernels<T>;
    const auto typed = layers.typed<T>(gradients);
    const auto* const given = static_cast<const T*>(upstream.data());
    const auto* const kept = static_cast<const T*>(memory.data());
    const auto* const inputs = static_cast<const T*>(x.data());
    auto* const target = static_cast<T*>(by_x.data());
    const std::int64_t width = active == 0 ? 0 : layers.outputs(active - 1);
    const auto passed = std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(*rows * width));
    if (activate_last) {
      std::copy_n(given, *rows * width, passed.get());
    } else {
      const T* const last = Kernels::last_value({typed.data(), active}, layers.activation, *rows, inputs, kept);
      Kernels::linear_backward(typed[active], *rows, last, given, nullptr,
                               active == 0 ? target
                               : goes_on   ? passed.get()
                                           : nullptr,
                               narrow);
    }
    if (active > 0 && goes_on) {
      Kernels::activate_backward({typed.data(), active}, layers.activation, *rows, inputs, kept, passed.get(), nullptr,
                                 nullptr, target, narrow);
    }
  });
  return released({&by_x}, gradients);
}

// Whether the observations have the leading dimensions of z, or its last ones.
bool observes(const Operand& z, const Operand& x, std::int64_t features) {
  const auto own = z.shape(), of_x = x.shape();
  return !of_x.empty() && of_x.size() <= own.size() && of_x.back() == features &&
         equal(of_x.first(of_x.size() - 1), own.subspan(own.size() - of_x.size(), of_x.size() - 1));
}

// bernoulli_perceptron(z, x, 8 parameters, activation, narrow) -> out, memory, residual
py::object bernoulli_forward(Arguments arguments) {
  Tensors tensors;
  if (!tensors.read(arguments[0]) || !tensors.read(arguments[1])) return not_implemented();
  const Operand &z = tensors[0], &x = tensors[1];
  const bool narrow = is_narrow(arguments[11]);
  const auto rows = few_rows(z, narrow);
  Layers layers{tensors, 2};
  if (!rows || !runs(narrow, tensors.dtype()) ||
      !layers.read(tensors, arguments.subspan(2), arguments[10], z.shape().back()) ||
      !observes(z, x, layers.features())) {
    return not_implemented();
  }
  const std::size_t active = layers.count - 1;
  const std::int64_t kept[] = {*rows * layers.kept_columns(active)}, wide[] = {*rows, layers.features()};
  Result out = tensors.result(z.shape().first(z.shape().size() - 1)), memory = tensors.result(kept),
         residual = tensors.result(wide);
  const std::int64_t batch = x.elements() / layers.features();
  tensors.run([&]<class T> {
    const auto typed = layers.typed<T>();
    const T* const last =
        PerceptronKernels<T>::activate({typed.data(), active}, layers.activation, *rows,
                                       static_cast<const T*>(z.data()), static_cast<T*>(memory.data()), narrow);
    PerceptronLayer<T> head = typed[active];
    const T* const bias = std::exchange(head.bias, nullptr);
    auto* const logits = static_cast<T*>(residual.data());
    PerceptronKernels<T>::linear(head, *rows, last, logits, narrow);
    const RowView<const T> observed{static_cast<const T*>(x.data()), 0, layers.features()};
    BernoulliHeadKernels<T>::bernoulli_epilogue({*rows / batch, batch, layers.features()}, logits, bias, observed, true,
                                                static_cast<T*>(out.data()));
  });
  return py::make_tuple(out.release(), memory.release(), residual.release());
}

// bernoulli_perceptron_value(z, x, 8 parameters, activation, narrow) -> out, of any number of rows
py::object bernoulli_value(Arguments arguments) {
  Tensors tensors;
  if (!tensors.read(arguments[0]) || !tensors.read(arguments[1])) return not_implemented();
  const Operand &z = tensors[0], &x = tensors[1];
  const bool narrow = is_narrow(arguments[11]);
  Layers layers{tensors, 2};
  if (z.shape().empty() || z.elements() == 0 || !runs(narrow, tensors.dtype()) ||
      !layers.read(tensors, arguments.subspan(2), arguments[10], z.shape().back()) ||
      !observes(z, x, layers.features())) {
    return not_implemented();
  }
  const auto leading = z.shape().first(z.shape().size() - 1);
  Result out = tensors.result(leading);
  tensors.run([&]<class T> {
    const auto typed = layers.typed<T>();
    PerceptronKernels<T>::bernoulli_log_prob({typed.data(), layers.count}, layers.activation, product(leading),
                                             static_cast<const T*>(z.data()), x.elements() / layers.features(),
                                             static_cast<const T*>(x.data()), static_cast<T*>(out.data()), narrow);
  });
  return out.release();
}

// bernoulli_perceptron_backward(gradient, z, x, 8 parameters, memory, residual, activation, needs, narrow) -> 10
// gradients
py::object bernoulli_backward(Arguments arguments) {
  const auto needs = read_needs("mlp_bernoulli_log_prob", arguments[14], 10);
  Tensors tensors;
  if (needs[1] || !tensors.read(arguments[0]) || !tensors.read(arguments[1]) || !tensors.read(arguments[2])) {
    return not_implemented();
  }
  const Operand &upstream = tensors[0], &z = tensors[1], &x = tensors[2];
  const bool narrow = is_narrow(arguments[15]);
  const auto rows = few_rows(z, narrow);
  Layers layers{tensors, 3};
  if (!rows || !runs(narrow, tensors.dtype()) ||
      !layers.read(tensors, arguments.subspan(3), arguments[13], z.shape().back()) || !tensors.read(arguments[11]) ||
      !tensors.read(arguments[12]) || !observes(z, x, layers.features())) {
    return not_implemented();
  }
  const Operand &memory = tensors[11], &residual = tensors[12];
  const std::size_t active = layers.count - 1;
  const std::int64_t wide[] = {*rows, layers.features()};
  if (active == 0 || layers.lacks(needs, 2) || !equal(upstream.shape(), z.shape().first(z.shape().size() - 1)) ||
      !equal(residual.shape(), wide) || memory.elements() != *rows * layers.kept_columns(active)) {
    return not_implemented();
  }
  auto gradients = layers.gradients(needs, 2);
  Result by_z, nothing;
  if (needs[0]) by_z = tensors.result(z.shape());
  tensors.run([&]<class T> {
    using Kernels = PerceptronKernels<T>;
    auto typed = layers.typed<T>(gradients);
    PerceptronLayer<T>& head = typed[active];
    const auto* const kept = static_cast<const T*>(memory.data());
    const auto* const inputs = static_cast<const T*>(z.data());
    const auto* const scale = static_cast<const T*>(upstream.data());
    const auto* const by_logits = static_cast<const T*>(residual.data());
    const auto size = static_cast<std::size_t>(*rows * head.inputs);
    const auto passed = std::make_unique_for_overwrite<T[]>(size), scaled = std::make_unique_for_overwrite<T[]>(size);
    // The upstream gradient scales rows: of the hidden units, never of the wide residual.
    T* const by_weight = std::exchange(head.weight_gradient, nullptr);
    Kernels::linear_backward(head, *rows, nullptr, by_logits, scale, passed.get(), narrow);
    Kernels::activate_backward({typed.data(), active}, layers.activation, *rows, inputs, kept, passed.get(), scale,
                               scaled.get(), static_cast<T*>(by_z.data()), narrow);
    head.weight_gradient = by_weight;
    head.bias_gradient = nullptr;
    Kernels::linear_backward(head, *rows, scaled.get(), by_logits, nullptr, nullptr, narrow);
  });
  return released({&by_z, &nothing}, gradients);
}

}  // namespace

void bind_perceptrons(py::module_& m) {
  add_function(m, "perceptron", 12, forward);
  add_function(m, "perceptron_backward", 15, backward);
  add_function(m, "bernoulli_perceptron", 12, bernoulli_forward);
  add_function(m, "bernoulli_perceptron_value", 12, bernoulli_value);
  add_function(m, "bernoulli_perceptron_backward", 16, bernoulli_backward);
}

}  // namespace fastvi
