#include "call.h"

#include <deque>

namespace fastvi {
namespace {

namespace py = pybind11;

struct Function {
  std::string name;
  std::size_t count;
  Body body;
  PyMethodDef definition;
};

PyObject* call_function(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  const auto* function = static_cast<const Function*>(PyCapsule_GetPointer(self, nullptr));
  if (function->count != any_count && static_cast<std::size_t>(count) != function->count) {
    return PyErr_Format(PyExc_TypeError, "%s takes %zu arguments, got %zd", function->name.c_str(), function->count,
                        count);
  }
  try {
    return function->body({arguments, static_cast<std::size_t>(count)}).release().ptr();
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const NoMemory& error) {
    PyErr_Format(error.library == Library::numpy ? PyExc_MemoryError : PyExc_RuntimeError, "%s: %s",
                 function->name.c_str(), error.what());
  } catch (const TypeError& error) {
    PyErr_SetString(PyExc_TypeError, error.what());
  } catch (const std::invalid_argument& error) {
    PyErr_SetString(PyExc_ValueError, error.what());
  } catch (const std::bad_alloc&) {
    PyErr_Format(PyExc_MemoryError, "%s: no memory for intermediate results", function->name.c_str());
  } catch (const std::exception& error) {  // PyTorch's own among them
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

// A function of fastvi._sizes: the rules for arguments that are not tensors, and their errors.
const py::object& rule(const char* name) {
  static auto* const rules = new py::dict(py::module_::import("fastvi._sizes").attr("__dict__"));
  static auto* const found = new std::deque<std::pair<std::string, py::object>>();
  for (const auto& each : *found) {
    if (each.first == name) return each.second;
  }
  return found->emplace_back(name, (*rules)[name]).second;
}

// A size that is plainly an int, or -1.
std::int64_t plain_size(PyObject* object) {
  if (!PyLong_CheckExact(object)) return -1;
  int overflow = 0;
  const std::int64_t value = PyLong_AsLongLongAndOverflow(object, &overflow);
  return overflow == 0 && value >= 0 && value <= std::int64_t{1} << 62 ? value : -1;
}

const char* expected_dtypes(Library library) {
  return library == Library::numpy ? "float32, float64 or float16"
                                   : "torch.float32, torch.float64, torch.bfloat16 or torch.float16";
}

std::string device_name(const Operand& operand) { return py::str(py::handle(operand.object()).attr("device")); }

}  // namespace

py::object answer(Route route) {
  PyObject* const found = route == Route::run ? Py_True : route == Route::record ? Py_None : Py_NotImplemented;
  return py::reinterpret_borrow<py::object>(found);
}

void add_function(const py::module_& m, const std::string& name, std::size_t count, Body body) {
  // Python keeps pointers to what stands here; the modules are never unloaded.
  static auto* const functions = new std::deque<Function>();
  Function& function = functions->emplace_back(Function{name, count, std::move(body), {}});
  function.definition = {function.name.c_str(),
                         reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_function)), METH_FASTCALL,
                         nullptr};
  const py::capsule self(&function, [](void*) {});
  PyObject* const object = PyCFunction_New(&function.definition, self.ptr());
  if (object == nullptr) throw py::error_already_set();
  m.attr(name.c_str()) = py::reinterpret_steal<py::object>(object);
}

void add_forward(const py::module_& m, const std::string& name, std::size_t tensors, std::size_t count,
                 const LibraryBody& body, std::size_t first_number, const LibraryBody& of_operator) {
  add_function(m.attr("forward"), name, count, [body = of_operator ? of_operator : body](Arguments arguments) {
    return body(Library::torch, arguments);
  });
  add_function(m.attr("numpy"), name, count, [body](Arguments arguments) { return body(Library::numpy, arguments); });
  add_function(m.attr("attempt"), name, count, [body, tensors, first_number](Arguments arguments) {
    if (arguments[0] == Py_None) return answer(Route::other);  // which says that it is missed
    const Route route = route_of(arguments.first(tensors), first_number);
    if (route != Route::run) return answer(route);
    try {
      return body(Library::torch, arguments);
    } catch (const Incomplete&) {
      return answer(Route::other);
    }
  });
}

void add_backward(const py::module_& m, const std::string& name, std::size_t tensors, std::size_t count,
                  const Body& body) {
  add_function(m.attr("backward"), name, count, body);
  add_function(m.attr("attempt_backward"), name, count, [body, tensors](Arguments arguments) {
    return runs_backward(arguments.first(tensors)) ? body(arguments) : answer(Route::other);
  });
}

Operand& Call::read(const char* name, PyObject* object, bool optional, bool factor) {
  names_[count_] = name;
  Operand& operand = operands_[count_++];
  if (object == Py_None && optional) return operand;
  operand.read(object);  // what could not be read belongs to no library, which the check refuses
  check(name, object, operand, factor);
  return operand;
}

void Call::check(const char* name, PyObject* object, const Operand& operand, bool factor) const {
  const std::string subject = std::string(operation_) + ": " + name;
  if (operand.library() != library_) {
    const bool tensor = library_ == Library::torch && py::hasattr(object, "data_ptr");
    if (tensor) refuse_rank(name, py::handle(object).attr("ndim").cast<std::int64_t>());
    if (tensor) throw std::invalid_argument(subject + " has no memory that a kernel may read");
    throw TypeError(subject + " must be a " + (library_ == Library::numpy ? "numpy.ndarray" : "torch.Tensor") +
                    ", got " + Py_TYPE(object)->tp_name);
  }
  if (static_cast<std::size_t>(operand.dtype()) >= num_dtypes) {
    throw TypeError(subject + " has dtype " + dtype_name(operand) + ", expected " + expected_dtypes(library_));
  }
  const bool fits = operand.dtype() == dtype() || (factor && operand.dtype() == compute_dtype(dtype()));
  if (!fits) {
    throw TypeError(subject + " has dtype " + dtype_name(operand) + ", but " + names_[0] + " has " +
                    dtype_name(first()));
  }
  if (operand.device() != device()) {
    refuse(std::string(name) + " is on " + device_name(operand) + ", but " + names_[0] + " is on " +
           device_name(first()));
  }
  if (operand.device().type != backend_device) {
    refuse(std::string(name) + " is on " + device_name(operand) + ", which has other kernels");
  }
}

void Call::refuse_rank(const char* subject, std::int64_t rank) const {
  if (rank > max_rank) {
    refuse(std::string(subject) + " has " + std::to_string(rank) + " dimensions, expected at most " +
           std::to_string(max_rank));
  }
}

std::size_t Call::layouts(std::size_t count, std::array<Layout, max_operands>& found) const {
  std::size_t given = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (operands_[i].given()) found[given++] = layout(i);
  }
  return given;
}

View Call::view(std::size_t i, const RowPlan& plan, std::size_t place) {
  if (plan.copied[place]) operands_[i].copy(plan.copies[place]);
  return {operands_[i].data(), plan.sample_strides[place], plan.row_strides[place]};
}

void Call::read_upstream(Operand& upstream, PyObject* object, std::span<const std::int64_t> shape) const {
  const bool found = upstream.read(object);
  check("gradient", object, upstream, false);
  if (!found || !equal(upstream.shape(), shape)) {
    refuse("gradient has shape " + to_string(upstream.shape()) + ", expected " + to_string(shape));
  }
}

py::object Call::zeros(std::span<const std::int64_t> shape, DType dtype) const {
  return result(shape, dtype).release().attr("zero_")();
}

Result Call::sum_axes(const void* data, Sizes& shape, std::span<const std::int64_t> target, DType dtype) const {
  const auto is_summed = [&](int axis) {
    const int own = axis - (shape.rank - static_cast<int>(target.size()));
    return shape[axis] != (own < 0 ? 1 : target[static_cast<std::size_t>(own)]);
  };
  const auto merged = [&](int begin, int end) {
    return product(shape.span().subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)));
  };
  Result sum;
  // The last group of neighbouring axes that are summed, then the one before.
  for (int end = shape.rank; end > 0; --end) {
    if (!is_summed(end - 1)) continue;
    int start = end - 1;
    while (start > 0 && is_summed(start - 1)) --start;
    const AxisExtent extent{merged(0, start), merged(start, end), merged(end, shape.rank)};
    std::fill(shape.values.begin() + start, shape.values.begin() + end, 1);
    Result next = result(shape, dtype);
    run([&] {
      with_dtype(dtype, [&]<class S> {
        SumKernels<S>::axis_sum(extent, static_cast<const S*>(data), nullptr, static_cast<S*>(next.data()));
      });
    });
    sum = std::move(next);
    data = sum.data();
    end = start + 1;
  }
  return sum;
}

py::object Call::summed(Result gradient, const Sizes& shape, std::span<const std::int64_t> target, DType dtype) const {
  Sizes sizes = shape;
  Result sum = sum_axes(gradient.data(), sizes, target, dtype);
  py::object object = (sum.given() ? sum : gradient).release();
  return equal(sizes, target) ? object : object.attr("view")(shape_tuple(target));
}

double Call::number(const Constant& constant, PyObject* object) const {
  const double value = PyFloat_CheckExact(object)
                           ? PyFloat_AS_DOUBLE(object)
                           : rule("check_number")(operation_, constant.name, py::handle(object)).cast<double>();
  if (constant.is_non_negative && !(value >= 0.0)) {  // NaN is refused, too
    refuse(std::string(constant.name) + " is " + std::string(py::str(py::float_(value))) +
           ", expected a non-negative number");
  }
  return value;
}

std::int64_t Call::integer(const char* name, PyObject* object) const {
  const py::object integer = rule("check_integer")(operation_, name, py::handle(object));
  int overflow = 0;
  const std::int64_t value = PyLong_AsLongLongAndOverflow(integer.ptr(), &overflow);
  if (overflow != 0)
    refuse(std::string(name) + " is " + std::string(py::str(integer)) + ", expected a number of 64 bits");
  return value;
}

std::int64_t Call::size(const char* name, PyObject* object) const {
  const std::int64_t plain = plain_size(object);
  return plain >= 0 ? plain : rule("check_size")(operation_, name, py::handle(object)).cast<std::int64_t>();
}

Sizes Call::sizes(const char* name, PyObject* object) const {
  Sizes result;
  if (plain_size(object) >= 0) {
    result.append(plain_size(object));
    return result;
  }
  py::tuple sizes;
  bool is_plain = PyTuple_CheckExact(object) && PyTuple_GET_SIZE(object) <= max_rank;
  for (Py_ssize_t axis = 0; is_plain && axis < PyTuple_GET_SIZE(object); ++axis) {
    is_plain = plain_size(PyTuple_GET_ITEM(object, axis)) >= 0;
  }
  if (is_plain) {
    sizes = py::reinterpret_borrow<py::tuple>(object);
  } else {
    sizes = rule("check_shape")(operation_, name, py::handle(object));
  }
  refuse_rank(name, static_cast<std::int64_t>(sizes.size()));
  for (const py::handle size : sizes) result.append(size.cast<std::int64_t>());
  return result;
}

bool Call::flag(const char* name, PyObject* object) const {
  if (object == Py_True || object == Py_False) return object == Py_True;
  return rule("check_flag")(operation_, name, py::handle(object)).cast<bool>();
}

void Call::check_needs(const std::vector<bool>& needs) const {
  for (std::size_t i = 0; i < count_; ++i) {
    if (needs[i] && !operands_[i].given()) {
      refuse("needs asks for the gradient of " + std::string(names_[i]) + ", which is None");
    }
  }
}

void Call::check_counters(std::int64_t samples, std::int64_t columns) const {
  if (samples > std::int64_t{1} << 31 || columns > std::int64_t{1} << 31) {
    rule("check_counters")(operation_, samples, columns);
  }
}

Seed Call::seed(PyObject* object, Operand& operand, std::int64_t& local) const {
  const py::object drawn = object == Py_None ? new_seed() : py::reinterpret_borrow<py::object>(object);
  if (!operand.read(drawn.ptr())) {
    if (py::hasattr(drawn, "data_ptr")) refuse_rank("seed", drawn.attr("ndim").cast<std::int64_t>());
    local = rule("check_seed")(operation_, drawn, "an int, an int64 tensor or None").cast<std::int64_t>();
    return &local;
  }
  if (operand.dtype() != DType::int64) {
    throw TypeError(std::string(operation_) + ": seed has dtype " + dtype_name(operand) + ", expected torch.int64");
  }
  if (!operand.shape().empty()) {
    refuse("seed has shape " + to_string(operand.shape()) + ", expected a tensor without dimensions");
  }
  if (operand.device() != device()) {
    refuse("seed is on " + device_name(operand) + ", expected " + device_name(first()));
  }
  return static_cast<Seed>(operand.data());
}

std::vector<bool> read_needs(const char* operation, PyObject* object, std::size_t count) {
  const auto subject = [operation] { return std::string(operation) + ": needs"; };
  if (!PyList_Check(object) && !PyTuple_Check(object)) {
    throw TypeError(subject() + " must be a list or a tuple of bools, got " + Py_TYPE(object)->tp_name);
  }
  std::vector<bool> needs;
  for (const py::handle each : py::reinterpret_borrow<py::sequence>(object)) {
    if (!PyBool_Check(each.ptr())) {
      throw TypeError(subject() + "[" + std::to_string(needs.size()) + "] must be a bool, got " +
                      Py_TYPE(each.ptr())->tp_name);
    }
    needs.push_back(each.ptr() == Py_True);
  }
  if (needs.size() != count) {
    throw std::invalid_argument(subject() + " has " + std::to_string(needs.size()) + " elements, expected " +
                                std::to_string(count));
  }
  return needs;
}

}  // namespace fastvi
