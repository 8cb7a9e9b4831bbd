#include "operand.h"

#include <bit>
#include <cstring>

namespace fastvi {
namespace {

namespace py = pybind11;

// PyTorch's side, found when fastvi.ops is imported. References are never given up: the module lives as long.
struct Torch {
  PyTypeObject *tensor, *parameter;
  const dlpack::ExchangeApi* api;
  PyObject *is_neg, *requires_grad;
  // States in which a call is not the kernels' alone; each is nought or false where it is not so.
  std::array<PyObject*, 4> watched;
  PyObject *autocast_active, *grad_enabled, *forward_ad, *thread_count, *new_seed;
  std::array<PyObject*, num_dtypes> dtypes;
};

Torch torch{};

struct Numpy {
  PyTypeObject *array, *masked;
  PyObject *empty, *broadcast_to, *require;
  std::array<PyObject*, num_dtypes> dtypes;
};

PyObject* keep(const py::object& object) { return py::object(object).release().ptr(); }

// None before anybody has imported NumPy: then nothing is an array.
const Numpy* numpy() {
  static Numpy found{};
  if (found.array == nullptr) {
    PyObject* const modules = PyImport_GetModuleDict();
    PyObject* const imported = PyDict_GetItemString(modules, "numpy");
    if (imported == nullptr || imported == Py_None) return nullptr;
    const py::module_ module = py::module_::import("numpy");
    found.masked = reinterpret_cast<PyTypeObject*>(keep(module.attr("ma").attr("MaskedArray")));
    found.empty = keep(module.attr("empty"));
    found.broadcast_to = keep(module.attr("broadcast_to"));
    found.require = keep(module.attr("require"));
    found.dtypes = {keep(module.attr("dtype")("float32")), keep(module.attr("dtype")("float64")), nullptr,
                    keep(module.attr("dtype")("float16"))};
    found.array = reinterpret_cast<PyTypeObject*>(keep(module.attr("ndarray")));
  }
  return &found;
}

// What Python made, or its error.
py::object checked(PyObject* made) {
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(made);
}

// Whether a function of no arguments returns a truth, a number but nought, or an object; None is none.
bool holds(PyObject* function) {
  const py::object result = checked(PyObject_CallNoArgs(function));
  if (result.ptr() == Py_False || result.is_none()) return false;
  return !PyLong_CheckExact(result.ptr()) || PyLong_AsLong(result.ptr()) != 0;
}

bool in_forward_mode() {
  static PyObject* const name = PyUnicode_InternFromString("_current_level");
  return PyLong_AsLong(checked(PyObject_GetAttr(torch.forward_ad, name)).ptr()) >= 0;
}

bool watched() { return std::any_of(torch.watched.begin(), torch.watched.end(), holds) || in_forward_mode(); }

bool is_tensor(PyObject* object) {
  return torch.tensor != nullptr && (Py_TYPE(object) == torch.tensor || Py_TYPE(object) == torch.parameter);
}

bool is_negated(PyObject* tensor) { return checked(PyObject_CallOneArg(torch.is_neg, tensor)).ptr() == Py_True; }

bool requires_grad(PyObject* tensor) {
  const auto get = Py_TYPE(torch.requires_grad)->tp_descr_get;
  return checked(get(torch.requires_grad, tensor, reinterpret_cast<PyObject*>(Py_TYPE(tensor)))).ptr() == Py_True;
}

// In the order of `DType`.
constexpr std::array<dlpack::DataType, 5> dlpack_dtypes{{{dlpack::floating_point, 32, 1},
                                                         {dlpack::floating_point, 64, 1},
                                                         {dlpack::bfloat, 16, 1},
                                                         {dlpack::floating_point, 16, 1},
                                                         {dlpack::integer, 64, 1}}};
constexpr std::array<const char*, 5> dtype_names{"float32", "float64", "bfloat16", "float16", "int64"};
static_assert(static_cast<std::size_t>(DType::other) == dlpack_dtypes.size());

DType dtype_of(const dlpack::DataType& dtype) {
  return static_cast<DType>(std::find(dlpack_dtypes.begin(), dlpack_dtypes.end(), dtype) - dlpack_dtypes.begin());
}

// By the format of the buffer protocol, in this machine's byte order; that of a packed record's field names the order.
DType dtype_of(const Py_buffer& buffer) {
  const char* format = buffer.format == nullptr ? "" : buffer.format;
  if (*format == '@' || *format == '=' || (std::endian::native == std::endian::little && *format == '<')) ++format;
  if (std::strlen(format) != 1) return DType::other;
  const bool is_long = *format == 'l' || *format == 'q';
  return *format == 'f'                    ? DType::float32
         : *format == 'd'                  ? DType::float64
         : *format == 'e'                  ? DType::float16
         : is_long && buffer.itemsize == 8 ? DType::int64
                                           : DType::other;
}

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// What a library makes that takes memory. That there is not enough is all that PyTorch has to say of a CPU's memory; of
// a GPU's it says more. NumPy has an error of its own for sizes that no memory could hold.
template <class Make>
py::object allocated(Library library, const char* what, std::span<const std::int64_t> shape, DType dtype, bool on_cpu,
                     const Make& make) {
  try {
    return make();
  } catch (py::error_already_set& error) {
    const bool is_too_large = product(shape) > std::numeric_limits<std::int64_t>::max() / 8;
    const bool is_numpy = library == Library::numpy;
    const bool lacks_memory =
        is_numpy ? error.matches(PyExc_MemoryError) || is_too_large : error.matches(PyExc_RuntimeError);
    if (!lacks_memory) throw;
    throw NoMemory(library, what, shape, dtype, on_cpu ? "" : first_line(py::str(error.value())));
  }
}

// A tensor of freed storage begins as far from address zero as from the start of its storage. Systems leave the lowest
// addresses free, so that pointers to members of nothing are found out.
bool is_nowhere(const void* data) { return reinterpret_cast<std::uintptr_t>(data) < 65536; }

// What PyTorch's allocator reports: of its kind and message the message.
void keep_message(void* context, const char*, const char* message) { *static_cast<std::string*>(context) = message; }

}  // namespace

NoMemory::NoMemory(Library of, const char* what, std::span<const std::int64_t> shape, DType dtype,
                   const std::string& reason)
    : std::runtime_error("no memory for " + std::string(what) + " of shape " + to_string(shape) + " and dtype " +
                         (of == Library::torch ? "torch." : "") + dtype_names[static_cast<std::size_t>(dtype)] +
                         (reason.empty() ? "" : ": " + reason)),
      library(of) {}

bool Operand::read(PyObject* object) {
  clear();
  return is_tensor(object) ? read_tensor(object) : read_array(object);
}

bool Operand::read_tensor(PyObject* object) {
  dlpack::Tensor tensor;
  if (torch.api->read_object(object, &tensor) != 0) {
    PyErr_Clear();
    return false;
  }
  object_ = py::reinterpret_borrow<py::object>(object);
  data_ = static_cast<char*>(tensor.data) + tensor.byte_offset;
  dtype_ = dtype_of(tensor.dtype);
  device_ = tensor.device;
  rank_ = static_cast<std::size_t>(tensor.rank);
  shape_ = tensor.shape;
  strides_ = tensor.strides;
  if (rank_ > max_rank || (is_nowhere(tensor.data) && elements() > 0)) {
    clear();
    return false;
  }
  library_ = Library::torch;
  return true;
}

bool Operand::read_array(PyObject* object) {
  const Numpy* const library = numpy();
  if (library == nullptr || !PyObject_TypeCheck(object, library->array) ||
      PyObject_TypeCheck(object, library->masked)) {
    return false;
  }
  object_ = py::reinterpret_borrow<py::object>(object);
  library_ = Library::numpy;
  dtype_ = DType::other;
  device_ = {dlpack::cpu, 0};
  rank_ = 0;
  auto buffer = std::make_unique<Py_buffer>();
  if (PyObject_GetBuffer(object, buffer.get(), PyBUF_STRIDED_RO | PyBUF_FORMAT) != 0) {
    PyErr_Clear();  // of a dtype that the buffer protocol does not know
    return true;
  }
  buffer_ = {buffer.release(), [](Py_buffer* held) {
               PyBuffer_Release(held);
               delete held;
             }};
  dtype_ = dtype_of(*buffer_);
  if (dtype_ == DType::other) return true;
  rank_ = static_cast<std::size_t>(buffer_->ndim);
  static_assert(sizeof(Py_ssize_t) == sizeof(std::int64_t));
  data_ = buffer_->buf;
  shape_ = reinterpret_cast<const std::int64_t*>(buffer_->shape);
  // Kernels step by whole elements forward: an array that does not (a field of a packed record, a reversed one) is
  // copied.
  bool steps = reinterpret_cast<std::uintptr_t>(data_) % static_cast<std::uintptr_t>(buffer_->itemsize) == 0;
  own_strides_.rank = 0;
  for (std::size_t axis = 0; axis < rank_; ++axis) {
    const std::int64_t stride = buffer_->strides[axis];
    steps &= stride % buffer_->itemsize == 0;
    own_strides_.append(stride / buffer_->itemsize);
  }
  strides_ = own_strides_.values.data();
  if (!steps && elements() > 0) copy(shape());
  return true;
}

void Operand::copy(std::span<const std::int64_t> shape) {
  const py::tuple sizes = shape_tuple(shape);
  const py::object copied = allocated(library_, "a copy", shape, dtype_, is_on_cpu(), [&]() -> py::object {
    if (library_ == Library::torch) return object_.attr("detach")().attr("expand")(sizes).attr("contiguous")();
    const py::handle broadcast_to = numpy()->broadcast_to, require = numpy()->require;
    return require(broadcast_to(plain_array(), sizes), py::none(), py::make_tuple("C_CONTIGUOUS", "ALIGNED"));
  });
  if (!read(copied.ptr())) throw std::runtime_error("fastvi: a copy cannot be read");
}

void Operand::cast(DType dtype) {
  const auto place = static_cast<std::size_t>(dtype);
  const py::object converted = allocated(library_, "a copy", shape(), dtype, is_on_cpu(), [&]() -> py::object {
    if (library_ == Library::torch) return object_.attr("detach")().attr("to")(py::handle(torch.dtypes[place]));
    return plain_array().attr("astype")(py::handle(numpy()->dtypes[place]));
  });
  if (!read(converted.ptr())) throw std::runtime_error("fastvi: a converted copy cannot be read");
}

// As NumPy's own class, since a subclass may do what it likes in the functions that it overrides.
py::object Operand::plain_array() const {
  const py::handle array(reinterpret_cast<PyObject*>(numpy()->array));
  return array.attr("view")(object_, array);
}

void Operand::clear() {
  library_ = Library::none;
  buffer_.reset();
  object_ = py::object();
}

Result::Result(Library library, DType dtype, const Device& device, std::span<const std::int64_t> shape) {
  if (library == Library::numpy) {
    const auto place = static_cast<std::size_t>(dtype);
    array_ = allocated(library, "a result", shape, dtype, true, [&] {
      return py::handle(numpy()->empty)(shape_tuple(shape), py::handle(numpy()->dtypes[place]));
    });
    Operand operand;
    operand.read(array_.ptr());
    data_ = operand.data();
    return;
  }
  dlpack::Tensor prototype{nullptr,
                           device,
                           static_cast<std::int32_t>(shape.size()),
                           dlpack_dtypes[static_cast<std::size_t>(dtype)],
                           const_cast<std::int64_t*>(shape.data()),
                           nullptr,
                           0};
  dlpack::ManagedTensor* allocated = nullptr;
  std::string message;
  if (torch.api->allocate(&prototype, &allocated, &message, keep_message) != 0) {
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    throw NoMemory(library, "a result", shape, dtype, device.type == dlpack::cpu ? "" : first_line(message));
  }
  managed_.reset(allocated);
  data_ = static_cast<char*>(allocated->tensor.data) + allocated->tensor.byte_offset;
}

py::object Result::release() {
  if (managed_ == nullptr) return std::move(array_);
  void* object = nullptr;
  if (torch.api->to_object(managed_.release(), &object) != 0) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(static_cast<PyObject*>(object));
}

Route route_of(std::span<PyObject* const> tensors, std::size_t first_number) {
  if (torch.api == nullptr || watched()) return Route::other;
  bool half = false, records = false;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    PyObject* const object = tensors[i];
    if (object == Py_None || (i >= first_number && (PyFloat_CheckExact(object) || PyLong_CheckExact(object)))) continue;
    dlpack::Tensor tensor;
    if (!is_tensor(object)) return Route::other;
    if (torch.api->read_object(object, &tensor) != 0) {
      PyErr_Clear();
      return Route::other;
    }
    const std::span<const std::int64_t> shape{tensor.shape, static_cast<std::size_t>(tensor.rank)};
    if (is_negated(object) || (is_nowhere(tensor.data) && product(shape) > 0)) return Route::other;
    half |= tensor.dtype.bits == 16;
    records |= requires_grad(object);
  }
  if (half && holds(torch.autocast_active)) return Route::other;
  return records && holds(torch.grad_enabled) ? Route::record : Route::run;
}

bool runs_backward(std::span<PyObject* const> tensors) {
  if (torch.api == nullptr || watched() || holds(torch.grad_enabled)) return false;
  for (PyObject* const object : tensors) {
    Operand operand;
    if (object != Py_None && (!operand.read(object) || operand.library() != Library::torch || is_negated(object))) {
      return false;
    }
  }
  return true;
}

void adopt_thread_count() {
  static thread_local bool adopted = false;
  if (adopted || torch.thread_count == nullptr) return;
  checked(PyObject_CallNoArgs(torch.thread_count));
  adopted = true;
}

py::object new_seed() {
  if (torch.new_seed == nullptr) throw TypeError("fastvi: a seed of None needs PyTorch");
  return checked(PyObject_CallNoArgs(torch.new_seed));
}

void* current_stream(Library library, const Device& device) {
  void* stream = nullptr;
  if (library == Library::torch && device.type != dlpack::cpu &&
      torch.api->current_stream(device.type, device.index, &stream) != 0) {
    throw py::error_already_set();
  }
  return stream;
}

py::tuple shape_tuple(std::span<const std::int64_t> shape) {
  py::tuple result(shape.size());
  for (std::size_t axis = 0; axis < shape.size(); ++axis) result[axis] = py::int_(shape[axis]);
  return result;
}

py::object to_dtype(const py::object& tensor, std::span<const std::int64_t> shape, DType dtype) {
  const bool on_cpu = tensor.attr("is_cpu").cast<bool>();
  return allocated(Library::torch, "a gradient", shape, dtype, on_cpu, [&]() -> py::object {
    return tensor.attr("to")(py::handle(torch.dtypes[static_cast<std::size_t>(dtype)]));
  });
}

std::string dtype_name(const Operand& operand) { return py::str(py::handle(operand.object()).attr("dtype")); }

std::string to_string(std::span<const std::int64_t> sizes) {
  std::string text = "(";
  for (const std::int64_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + (sizes.size() == 1 ? ",)" : ")");
}

void use_torch(const py::dict& functions) {
  const py::object capsule = functions["exchange_api"];
  const auto* api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
  if (api == nullptr) throw py::error_already_set();
  while (api != nullptr && api->version.major != 1) api = api->previous;
  if (api == nullptr) throw py::import_error("fastvi: this PyTorch offers no DLPack exchange interface of version 1");
  const auto get = [&](const char* name) { return keep(functions[name]); };
  torch.parameter = reinterpret_cast<PyTypeObject*>(get("parameter"));
  torch.is_neg = get("is_neg");
  torch.requires_grad = get("requires_grad");
  torch.watched = {get("transforms_active"), get("function_modes"), get("dispatch_modes"), get("tracing_state")};
  torch.autocast_active = get("autocast_active");
  torch.grad_enabled = get("grad_enabled");
  torch.forward_ad = get("forward_ad");
  torch.thread_count = get("thread_count");
  torch.new_seed = get("new_seed");
  torch.dtypes = {get("float32"), get("float64"), get("bfloat16"), get("float16")};
  torch.api = api;
  torch.tensor = reinterpret_cast<PyTypeObject*>(get("tensor"));
}

}  // namespace fastvi
