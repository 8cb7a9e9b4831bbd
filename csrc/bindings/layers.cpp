// What follows the matrix products of a perceptron's layer, as native functions that overwrite the product.
#include "../formulas/activation.h"
#include "call.h"

namespace fastvi {
namespace {

namespace py = pybind11;

// The arrays of a call, the first of which has the shape (rows, columns) and is overwritten.
class LayerCall {
 public:
  LayerCall(const char* name, Library library, PyObject* number, PyObject* product)
      : call("mlp", library), activation(static_cast<Activation>(call.integer("activation", number))) {
    const auto index = static_cast<int>(activation);
    if (index < 0 || index >= num_activations) call.refuse("activation is " + std::to_string(index));
    const Operand& first = call.read(name, product);
    if (first.shape().size() != 2) call.refuse(std::string(name) + " has shape " + to_string(first.shape()));
    check_memory(name, first);
    if (is_half(call.dtype())) call.refuse(std::string(name) + " is half precision, expected that of the arithmetic");
  }

  std::int64_t rows() const { return call[0].shape()[0]; }
  std::int64_t columns() const { return call[0].shape()[1]; }

  // An array with `elements` numbers, or null where it is not given.
  Operand& read(const char* name, PyObject* object, std::int64_t elements) {
    Operand& operand = call.read(name, object, true);
    if (operand.given() && operand.elements() != elements) {
      call.refuse(std::string(name) + " has shape " + to_string(operand.shape()));
    }
    return operand;
  }

  // One with as many rows and columns, whose own memory the kernels are to see.
  Operand& in_place(const char* name, PyObject* object) {
    Operand& operand = read(name, object, rows() * columns());
    if (operand.given()) check_memory(name, operand);
    return operand;
  }

  // Calls kernels.operator()<T>().
  template <class Kernels>
  void run(const Kernels& kernels) const {
    call.run([&] {
      if (call.dtype() == DType::float64) {
        kernels.template operator()<double>();
      } else {
        kernels.template operator()<float>();
      }
    });
  }

  Call call;
  const Activation activation;

 private:
  void check_memory(const char* name, const Operand& operand) const {
    if (!operand.is_contiguous() || !operand.is_writable()) {
      call.refuse(std::string(name) + " is not contiguous memory that may be written to");
    }
  }
};

template <class T>
T* data(const Operand& operand) {
  return static_cast<T*>(operand.data());
}

// activate_layer(product, activation, bias, slope, copy): see LayerKernels.
py::object activate_layer(Library library, Arguments arguments) {
  LayerCall layer("product", library, arguments[1], arguments[0]);
  Operand& bias = layer.read("bias", arguments[2], layer.columns());
  const Operand& slope = layer.in_place("slope", arguments[3]);
  const Operand& copy = layer.in_place("copy", arguments[4]);
  if (bias.given()) make_contiguous(bias);
  layer.run([&]<class T> {
    LayerKernels<T>::activate(layer.rows(), layer.columns(), layer.activation, data<T>(layer.call[0]), data<T>(bias),
                              data<T>(slope), data<T>(copy));
  });
  return py::none();
}

// layer_gradient(gradient, activation, value, slope, scale, scaled, by_bias) -> the bias's gradient, or None.
py::object layer_gradient(Arguments arguments) {
  LayerCall layer("gradient", Library::torch, arguments[1], arguments[0]);
  const Operand& value = layer.in_place("value", arguments[2]);
  const Operand& slope = layer.in_place("slope", arguments[3]);
  Operand& scale = layer.read("scale", arguments[4], layer.rows());
  const Operand& scaled = layer.in_place("scaled", arguments[5]);
  if (!value.given() || (keeps_slope(layer.activation) && !slope.given())) {
    layer.call.refuse("value and slope must be given");
  }
  if (scale.given()) make_contiguous(scale);
  Result by_bias;
  if (arguments[6] == Py_True) {
    const std::int64_t columns[] = {layer.columns()};
    if (layer.rows() == 0) return layer.call.zeros(columns, layer.call.dtype());
    by_bias = layer.call.result(columns);
  }
  layer.run([&]<class T> {
    LayerKernels<T>::gradient(layer.rows(), layer.columns(), layer.activation, data<T>(layer.call[0]), data<T>(value),
                              data<T>(slope), data<T>(scale), data<T>(scaled), static_cast<T*>(by_bias.data()));
  });
  return by_bias.given() ? by_bias.release() : py::object(py::none());
}

}  // namespace

void bind_layers(py::module_& m) {
  add_forward(m, "activate_layer", 1, 5, activate_layer);
  add_function(m, "layer_gradient", 7, layer_gradient);
}

}  // namespace fastvi
