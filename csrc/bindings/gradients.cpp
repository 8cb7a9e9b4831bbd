#include "gradients.h"

namespace fastvi {

namespace py = pybind11;

py::tuple OperandGradients::release(std::size_t others) {
  py::tuple found(call_.size() + others);
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (i >= call_.size() || !needs_[i]) {
      found[i] = py::none();
    } else if (is_empty_) {
      found[i] = call_.zeros(shapes_[i], dtypes_[i]);
    } else {
      const DType computed = call_[i].dtype();
      py::object gradient = call_.summed(std::move(results_[i]), plans_[i].shape, shapes_[i], computed);
      found[i] = computed == dtypes_[i] ? std::move(gradient) : to_dtype(gradient, shapes_[i], dtypes_[i]);
    }
  }
  return found;
}

}  // namespace fastvi
