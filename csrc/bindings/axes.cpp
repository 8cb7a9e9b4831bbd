// Reductions over one axis, and the end of a linear Bernoulli layer, as native functions.
#include "call.h"

namespace fastvi {
namespace {

namespace py = pybind11;

// One tensor, contiguous, as (outer, count, inner) around an axis.
struct AxisCall {
  Call call;
  AxisExtent extent;
  Sizes rest;  // the shape without the axis

  AxisCall(const char* operation, Library library, const char* name, PyObject* tensor, PyObject* dim)
      : call(operation, library) {
    std::int64_t axis = call.integer("dim", dim);
    Operand& x = call.read(name, tensor);
    extent = plan_axis(operation, name, x.shape(), axis, rest);
    make_contiguous(x);
  }

  template <class S>
  const S* data(std::size_t i = 0) const {
    return static_cast<const S*>(call[i].data());
  }
};

// A reduction by a kernel (extent, x, out).
template <class Kernel>
py::object reduce(AxisCall& axis, const Kernel& kernel) {
  Result out = axis.call.result(axis.rest);
  axis.call.run([&] {
    with_dtype(axis.call.dtype(), [&]<class S> { kernel(axis.extent, axis.data<S>(), static_cast<S*>(out.data())); });
  });
  return out.release();
}

py::object log_mean_exp(Library library, Arguments arguments) {
  AxisCall axis("log_mean_exp", library, "x", arguments[0], arguments[1]);
  return reduce(axis, []<class S>(const AxisExtent& extent, const S* x, S* out) {
    LogMeanExpKernels<S>::log_mean_exp(extent, x, out);
  });
}

py::object effective_sample_size(Library library, Arguments arguments) {
  AxisCall axis("effective_sample_size", library, "log_weights", arguments[0], arguments[1]);
  return reduce(axis, []<class S>(const AxisExtent& extent, const S* x, S* out) {
    LogMeanExpKernels<S>::effective_sample_size(extent, x, out);
  });
}

py::object softmax(AxisCall& axis, const Operand* scale) {
  Result out = axis.call.result(axis.call[0].shape());
  axis.call.run([&] {
    with_dtype(axis.call.dtype(), [&]<class S> {
      LogMeanExpKernels<S>::scaled_softmax(axis.extent, axis.data<S>(),
                                           scale == nullptr ? nullptr : static_cast<const S*>(scale->data()),
                                           scale != nullptr, static_cast<S*>(out.data()));
    });
  });
  return out.release();
}

py::object importance_weights(Library library, Arguments arguments) {
  AxisCall axis("importance_weights", library, "log_weights", arguments[0], arguments[1]);
  return softmax(axis, nullptr);
}

py::object log_mean_exp_backward(Arguments arguments) {
  const bool needed = read_needs("log_mean_exp", arguments[3], 1)[0];
  AxisCall axis("log_mean_exp", Library::torch, "x", arguments[1], arguments[2]);
  Operand upstream;
  axis.call.read_upstream(upstream, arguments[0], axis.rest);
  make_contiguous(upstream);
  return py::make_tuple(needed ? softmax(axis, &upstream) : py::object(py::none()));
}

py::object importance_weights_backward(Arguments arguments) {
  const bool needed = read_needs("importance_weights", arguments[3], 1)[0];
  AxisCall axis("importance_weights", Library::torch, "log_weights", arguments[1], arguments[2]);
  Operand upstream;
  axis.call.read_upstream(upstream, arguments[0], axis.call[0].shape());
  if (!needed) return py::make_tuple(py::none());
  make_contiguous(upstream);
  Result out = axis.call.result(axis.call[0].shape());
  axis.call.run([&] {
    with_dtype(axis.call.dtype(), [&]<class S> {
      LogMeanExpKernels<S>::weights_backward(axis.extent, static_cast<const S*>(upstream.data()), axis.data<S>(),
                                             static_cast<S*>(out.data()));
    });
  });
  return py::make_tuple(out.release());
}

// sum_over(tensor, dim, weights): each place along the axis times its weight, where weights are given.
py::object sum_over(Arguments arguments) {
  Call call("sum_over", Library::torch);
  std::int64_t dim = call.integer("dim", arguments[1]);
  Operand& x = call.read("tensor", arguments[0]);
  Operand& weights = call.read("weights", arguments[2], true);
  Sizes rest;
  if (x.elements() == 0) {
    for (std::size_t axis = 0; axis < x.shape().size(); ++axis) {
      if (static_cast<std::int64_t>(axis) != dim) rest.append(x.shape()[axis]);
    }
    return call.zeros(rest, call.dtype());
  }
  const AxisExtent extent = plan_axis(call.operation(), "tensor", x.shape(), dim, rest);
  make_contiguous(x);
  if (weights.given()) {
    make_contiguous(weights);
    if (weights.elements() != extent.count) call.refuse("weights has shape " + to_string(weights.shape()));
  }
  Result out = call.result(rest);
  call.run([&] {
    with_dtype(call.dtype(), [&]<class S> {
      SumKernels<S>::axis_sum(extent, static_cast<const S*>(x.data()), static_cast<const S*>(weights.data()),
                              static_cast<S*>(out.data()));
    });
  });
  return out.release();
}

// sum_to_shape(tensor, shape): the sum over what an operand of that shape was broadcast over.
py::object sum_to_shape(Arguments arguments) {
  Call call("sum_to_shape", Library::torch);
  const Sizes shape = call.sizes("shape", arguments[1]);
  Operand& x = call.read("tensor", arguments[0]);
  if (equal(x.shape(), shape)) return py::reinterpret_borrow<py::object>(arguments[0]);
  if (x.elements() == 0) return call.zeros(shape, call.dtype());
  make_contiguous(x);
  Sizes sizes(x.shape());
  Result sum = call.sum_axes(x.data(), sizes, shape, call.dtype());
  const py::object object = sum.given() ? sum.release() : py::reinterpret_borrow<py::object>(x.object());
  return object.attr("view")(shape_tuple(shape));
}

// bernoulli_epilogue(logits, bias, x, keep_residual): logits are (rows, columns), contiguous; x has as many rows, in
// axes of its own that come out as the result's shape.
py::object bernoulli_epilogue(Library library, Arguments arguments) {
  Call call("linear_bernoulli_log_prob", library);
  Operand& logits = call.read("logits", arguments[0]);
  Operand& bias = call.read("bias", arguments[1], true);
  call.read("x", arguments[2]);
  const Layout layout = call.layout(2);
  const RowPlan plan = plan_rows(call.operation(), {&layout, 1});
  const bool fits = logits.is_contiguous() && logits.is_writable() && logits.shape().size() == 2 &&
                    logits.shape()[0] == product(plan.leading) && logits.shape()[1] == plan.extent.columns &&
                    (!bias.given() || bias.elements() == plan.extent.columns);
  if (!fits) call.refuse("logits have shape " + to_string(logits.shape()) + ", x " + to_string(layout.shape));
  const View x = call.view(2, plan, 0);
  if (bias.given()) make_contiguous(bias);
  const bool keep_residual = arguments[3] == Py_True;
  Result out = call.result(plan.leading);
  call.run([&] {
    with_dtype(call.dtype(), [&]<class S> {
      BernoulliHeadKernels<S>::bernoulli_epilogue(plan.extent, static_cast<S*>(logits.data()),
                                                  static_cast<const S*>(bias.data()), typed<S>(x), keep_residual,
                                                  static_cast<S*>(out.data()));
    });
  });
  return out.release();
}

}  // namespace

void bind_axes(py::module_& m) {
  add_forward(m, "log_mean_exp", 1, 2, log_mean_exp);
  add_forward(m, "importance_weights", 1, 2, importance_weights);
  add_forward(m, "effective_sample_size", 1, 2, effective_sample_size);
  add_backward(m, "log_mean_exp", 2, 4, log_mean_exp_backward);
  add_backward(m, "importance_weights", 2, 4, importance_weights_backward);
  add_forward(m, "bernoulli_epilogue", 3, 4, bernoulli_epilogue);
  add_function(m, "sum_over", 3, sum_over);
  add_function(m, "sum_to_shape", 2, sum_to_shape);
}

}  // namespace fastvi
