// The CPU modules, one for each instruction set: the kernels, the formulas one by one, for the tests of their accuracy,
// and the number of threads.
#include <omp.h>
#include <pybind11/stl.h>

#include <string>

#include "../cpu/storage.h"
#include "../formulas/math_table.h"
#include "../formulas/philox.h"
#include "call.h"
#include "chains.h"
#include "hidden_markov.h"
#include "perceptrons.h"
#include "sparse_codes.h"

namespace fastvi {
namespace {

namespace py = pybind11;

using Address = std::uintptr_t;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

// Evaluates one formula over an array, as the kernels' vector loops do: what the accuracy tests measure. For the 16-bit
// types these are their conversions, `widen` to float32 and `narrow` from it.
template <class S>
bool evaluate_dtype(const std::string& name, Address input, Address output, std::int64_t count) {
  if constexpr (!is_narrow<S>) {
    return evaluate(name, pointer<const void>(input), pointer<S>(output), count);
  } else if (name == "widen") {
    convert(pointer<const S>(input), count, pointer<ComputeType<S>>(output));
  } else if (name == "narrow") {
    convert(pointer<const ComputeType<S>>(input), count, pointer<S>(output));
  } else {
    return false;
  }
  return true;
}

void evaluate_formula(const std::string& name, const std::string& dtype, Address input, Address output,
                      std::int64_t count) {
  const auto chosen = dtype == "float32"    ? evaluate_dtype<float>
                      : dtype == "float64"  ? evaluate_dtype<double>
                      : dtype == "bfloat16" ? evaluate_dtype<BFloat16>
                      : dtype == "float16"  ? evaluate_dtype<Float16>
                                            : nullptr;
  if (chosen == nullptr) {
    throw py::value_error("evaluate_formula: dtype must be float32, float64, bfloat16 or float16, got '" + dtype + "'");
  }
  if (!chosen(name, input, output, count)) {
    throw py::value_error("evaluate_formula: no formula for " + dtype + " is called '" + name + "'");
  }
}

py::tuple philox_words_of(std::uint32_t c0, std::uint32_t c1, std::uint32_t c2, std::uint32_t c3, std::uint64_t key) {
  const PhiloxBlock block = philox({{c0, c1, c2, c3}}, key);
  return py::make_tuple(block.word[0], block.word[1], block.word[2], block.word[3]);
}

Sizes sizes_of(const py::tuple& values) {
  Sizes result;
  for (const py::handle value : values) result.append(value.cast<std::int64_t>());
  return result;
}

// plan_rows(operation, names, ((shape, strides), ...), sample_rank): a plan as Python reads it, for the tests.
py::dict described_plan(const std::string& operation, const std::vector<std::string>& names, const py::tuple& layouts,
                        std::optional<int> sample_rank) {
  const bool fits = names.size() <= max_operands && names.size() == layouts.size();
  if (!fits) throw py::value_error("plan_rows: expected as many layouts as names, at most eight");
  std::array<Sizes, max_operands> shapes, strides;
  std::array<Layout, max_operands> operands;
  for (std::size_t i = 0; i < names.size(); ++i) {
    shapes[i] = sizes_of(layouts[i].cast<py::tuple>()[0]);
    strides[i] = sizes_of(layouts[i].cast<py::tuple>()[1]);
    operands[i] = {names[i].c_str(), shapes[i], strides[i]};
  }
  const RowPlan plan = plan_rows(operation.c_str(), {operands.data(), names.size()}, sample_rank);
  py::list of_operands, copies, gradients;
  for (std::size_t i = 0; i < names.size(); ++i) {
    of_operands.append(py::make_tuple(plan.sample_strides[i], plan.row_strides[i]));
    copies.append(plan.copied[i] ? py::object(shape_tuple(plan.copies[i])) : py::object(py::none()));
    const GradientPlan gradient = plan.gradient(operands[i]);
    gradients.append(py::make_tuple(shape_tuple(gradient.shape), gradient.sums_samples, gradient.broadcast));
  }
  py::dict result;
  result["leading"] = shape_tuple(plan.leading);
  result["extent"] = py::make_tuple(plan.extent.samples, plan.extent.rows, plan.extent.columns);
  result["strides"] = py::tuple(of_operands);
  result["copies"] = py::tuple(copies);
  result["gradients"] = py::tuple(gradients);
  return result;
}

}  // namespace

const std::int32_t backend_device = dlpack::cpu;

void enter_backend(Library library, const Device&, std::vector<Result>&) {
  if (library == Library::torch) adopt_thread_count();
}

}  // namespace fastvi

PYBIND11_MODULE(FASTVI_MODULE, m) {
  m.doc() = "Native kernels of fastvi for one instruction set.";
  fastvi::bind_operations(m);
  fastvi::bind_perceptrons(m);
  fastvi::bind_hidden_markov(m);
  fastvi::bind_chains(m);
  fastvi::bind_sparse_codes(m);
  m.def("evaluate_formula", &fastvi::evaluate_formula);
  m.def("philox", &fastvi::philox_words_of);
  m.def("plan_rows", &fastvi::described_plan);
  m.def("max_threads", [] { return omp_get_max_threads(); });
}
