// What the native functions share: how Python calls them, how they read and check their arguments, and how they run
// kernels. A function takes the arguments of an operation in order, tensors first, and returns new tensors.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "../operands/operand.h"
#include "../operands/plan.h"

namespace fastvi {

using Arguments = std::span<PyObject* const>;
using Body = std::function<pybind11::object(Arguments)>;

// Adds a function of `count` arguments to a module.
inline constexpr std::size_t any_count = static_cast<std::size_t>(-1);
void add_function(const pybind11::module_& m, const std::string& name, std::size_t count, Body body);

// What Python is told of a route: True, None where PyTorch is to record the call, else NotImplemented.
pybind11::object answer(Route route);

// Adds the functions of an operation of `count` arguments, of which the first `tensors` are tensors: `forward` and, if
// its tensors and its state allow it, `attempt`, which else returns NotImplemented, or None if PyTorch is to record.
// `of_operator` is `forward` where PyTorch's operator takes more than the public functions.
using LibraryBody = std::function<pybind11::object(Library, Arguments)>;
void add_forward(const pybind11::module_& m, const std::string& name, std::size_t tensors, std::size_t count,
                 const LibraryBody& body, std::size_t first_number = no_numbers, const LibraryBody& of_operator = {});

// Arguments that the operators do not take, but the public function may: its attempt returns NotImplemented.
struct Incomplete : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

// The same for a backward pass, whose attempt returns NotImplemented where it is to be recorded.
void add_backward(const pybind11::module_& m, const std::string& name, std::size_t tensors, std::size_t count,
                  const Body& body);

// Where the kernels of this module run, and what they need there. `scratch` keeps the memory that they ask for.
extern const std::int32_t backend_device;
void enter_backend(Library library, const Device& device, std::vector<Result>& scratch);

// The tensors of one call, of one dtype and on one device.
class Call {
 public:
  Call(const char* operation, Library library) : operation_(operation), library_(library) {}

  const char* operation() const { return operation_; }
  DType dtype() const { return first().dtype(); }
  const Device& device() const { return first().device(); }
  Operand& operator[](std::size_t i) { return operands_[i]; }
  const Operand& operator[](std::size_t i) const { return operands_[i]; }
  std::size_t size() const { return count_; }

  // Reads the next operand; None where it is `optional`. A `factor` may also have the dtype of the arithmetic.
  Operand& read(const char* name, PyObject* object, bool optional = false, bool factor = false);

  // Name, shape and strides of the first operands that were given, in order.
  std::size_t layouts(std::size_t count, std::array<Layout, max_operands>& found) const;
  Layout layout(std::size_t i) const { return {names_[i], operands_[i].shape(), operands_[i].strides()}; }

  // Copies operand i as its place in a plan asks for it, and returns the kernels' view of it.
  View view(std::size_t i, const RowPlan& plan, std::size_t place);

  // Reads an upstream gradient, which must have this shape; its strides may be any.
  void read_upstream(Operand& upstream, PyObject* object, std::span<const std::int64_t> shape) const;

  Result result(std::span<const std::int64_t> shape) const { return result(shape, dtype()); }
  Result result(std::span<const std::int64_t> shape, DType dtype) const {
    return {first().library(), dtype, device(), shape};
  }

  // The gradient where there is nothing to sum.
  pybind11::object zeros(std::span<const std::int64_t> shape, DType dtype) const;

  // What the kernels wrote, of a shape, summed to the shape of the operand that was broadcast to it.
  pybind11::object summed(Result gradient, const Sizes& shape, std::span<const std::int64_t> target, DType dtype) const;

  // The sum over the axes of a contiguous array that `target` has not; they have size one in `shape` afterwards.
  // Without memory where there are none.
  Result sum_axes(const void* data, Sizes& shape, std::span<const std::int64_t> target, DType dtype) const;

  // Runs kernels, without the GIL.
  template <class Run>
  void run(const Run& kernels) const {
    std::vector<Result> scratch;
    enter_backend(library_, device(), scratch);
    const pybind11::gil_scoped_release release;
    kernels();
  }

  // Arguments that are not tensors, by the rules of fastvi._sizes.
  double number(const Constant& constant, PyObject* object) const;
  std::int64_t integer(const char* name, PyObject* object) const;
  std::int64_t size(const char* name, PyObject* object) const;  // not negative
  Sizes sizes(const char* name, PyObject* object) const;
  bool flag(const char* name, PyObject* object) const;
  // Gradients are needed of tensors that are given alone.
  void check_needs(const std::vector<bool>& needs) const;
  void check_counters(std::int64_t samples, std::int64_t columns) const;

  // Where the kernels read the seed: a tensor of one number, or `local` for a number; None draws one from PyTorch.
  Seed seed(PyObject* object, Operand& operand, std::int64_t& local) const;

  // What has more dimensions than Sizes holds is refused.
  void refuse_rank(const char* subject, std::int64_t rank) const;

  [[noreturn]] void refuse(const std::string& what) const {
    throw std::invalid_argument(std::string(operation_) + ": " + what);
  }

 private:
  const Operand& first() const { return operands_[0]; }
  void check(const char* name, PyObject* object, const Operand& operand, bool factor) const;

  const char* operation_;
  Library library_;
  std::size_t count_ = 0;
  std::array<Operand, max_operands> operands_;
  std::array<const char*, max_operands> names_;
};

inline bool is_half(DType dtype) { return dtype == DType::bfloat16 || dtype == DType::float16; }
inline DType compute_dtype(DType dtype) { return is_half(dtype) ? DType::float32 : dtype; }

// For which of `count` tensors a gradient is needed: truth values in a list or a tuple.
std::vector<bool> read_needs(const char* operation, PyObject* object, std::size_t count);

// A tensor that a kernel may step through one element after the other.
inline void make_contiguous(Operand& operand) {
  if (!operand.is_contiguous()) operand.copy(Sizes(operand.shape()));
}

// Calls use.template operator()<S>() for a dtype that has kernels.
template <class Use>
auto with_dtype(DType dtype, const Use& use) {
  switch (dtype) {
    case DType::float64:
      return use.template operator()<double>();
    case DType::bfloat16:
      return use.template operator()<BFloat16>();
    case DType::float16:
      return use.template operator()<Float16>();
    default:
      return use.template operator()<float>();
  }
}

void bind_rows(pybind11::module_& m);
void bind_maps(pybind11::module_& m);
void bind_axes(pybind11::module_& m);
void bind_layers(pybind11::module_& m);
void bind_mixtures(pybind11::module_& m);
void bind_sampling(pybind11::module_& m);

// All of the above, and what else the native modules of all backends have.
void bind_operations(pybind11::module_& m);

}  // namespace fastvi
