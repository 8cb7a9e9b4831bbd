// Gaussian samples and their noise as native functions.
#include "gradients.h"

namespace fastvi {
namespace {

namespace py = pybind11;

constexpr std::array<const char*, 4> parameter_names{"mean", "logvar", "prior_mean", "prior_logvar"};

// The parameters of samples, every axis of which is a row; samples come on top.
struct SampleCall {
  Call call;
  std::int64_t row_offset;
  RowPlan plan;
  std::array<View, 4> views{};
  std::size_t count = 0;
  Operand seed_operand;
  std::int64_t local_seed = 0;
  Seed seed = nullptr;

  SampleCall(const char* operation, Library library, PyObject* offset)
      : call(operation, library), row_offset(call.size("row_offset", offset)) {}

  // After all arguments whose reading may run the caller's code.
  void read(Arguments parameters) {
    count = parameters.size();
    for (std::size_t i = 0; i < count; ++i) call.read(parameter_names[i], parameters[i], i >= 2);
    lay_out();
  }

  void lay_out() {
    std::array<Layout, max_operands> layouts;
    const std::size_t given = call.layouts(count, layouts);
    if (given == 3) {
      throw Incomplete(std::string(call.operation()) + ": expected both prior_mean and prior_logvar, or neither");
    }
    plan = plan_rows(call.operation(), {layouts.data(), given}, 0);
  }

  void make_views(PyObject* given_seed) {
    for (std::size_t i = 0; i < count; ++i) views[i] = call[i].given() ? call.view(i, plan, i) : View{};
    seed = call.seed(given_seed, seed_operand, local_seed);
  }

  Extent extent(std::int64_t samples) const {
    call.check_counters(samples, plan.extent.columns);
    return {samples, plan.extent.rows, plan.extent.columns};
  }

  Sizes shape(std::span<const std::int64_t> samples, bool with_columns) const {
    Sizes result(samples);
    call.refuse_rank("the result", result.rank + plan.leading.rank + 1);
    for (const std::int64_t size : plan.leading.span()) result.append(size);
    if (with_columns) result.append(plan.extent.columns);
    return result;
  }

  template <class S>
  SampleParameters<S> parameters() const {
    return {typed<S>(views[0]), typed<S>(views[1]), typed<S>(views[2]), typed<S>(views[3]), seed, row_offset};
  }
};

// For which parameters a gradient is needed; the last number is the seed's, which has none.
std::vector<bool> read_parameter_needs(const Call& call, PyObject* object, std::size_t parameters) {
  std::vector<bool> needs = read_needs(call.operation(), object, parameters + 1);
  if (needs.back()) call.refuse("needs asks for the gradient of seed, which has none");
  return needs;
}

// rsample_normal(mean, logvar, seed, sample_shape, row_offset)
py::object rsample(Library library, Arguments arguments) {
  SampleCall sample("rsample_normal", library, arguments[4]);
  const Sizes sample_shape = sample.call.sizes("sample_shape", arguments[3]);
  sample.read(arguments.first(2));
  const Extent extent = sample.extent(product(sample_shape));
  sample.make_views(arguments[2]);
  Result z = sample.call.result(sample.shape(sample_shape, true));
  sample.call.run([&] {
    with_dtype(sample.call.dtype(), [&]<class S> {
      SamplingKernels<S>::rsample_normal(extent, sample.parameters<S>(), static_cast<S*>(z.data()));
    });
  });
  return z.release();
}

// (grad, mean, logvar, seed, sample_shape, row_offset, needs)
py::object rsample_backward(Arguments arguments) {
  SampleCall sample("rsample_normal", Library::torch, arguments[5]);
  const Sizes sample_shape = sample.call.sizes("sample_shape", arguments[4]);
  const std::vector<bool> needs = read_parameter_needs(sample.call, arguments[6], 2);
  sample.read(arguments.subspan(1, 2));
  const Extent extent = sample.extent(product(sample_shape));
  Operand upstream;
  sample.call.read_upstream(upstream, arguments[0], sample.shape(sample_shape, true));
  make_contiguous(upstream);
  const std::array<Operand*, 1> above{&upstream};
  OperandGradients gradients(sample.call, sample.plan, needs, above, [&] { sample.lay_out(); });
  if (gradients.is_empty()) return gradients.release(1);
  sample.make_views(arguments[3]);
  const GradientView<void> by_mean = gradients.target(0), by_logvar = gradients.target(1);
  sample.call.run([&] {
    with_dtype(sample.call.dtype(), [&]<class S> {
      SamplingKernels<S>::rsample_normal_backward(extent, sample.parameters<S>(),
                                                  static_cast<const S*>(upstream.data()), static_cast<S*>(by_mean.data),
                                                  static_cast<S*>(by_logvar.data));
    });
  });
  return gradients.release(1);
}

// rsample_normal_with_log_ratio(mean, logvar, prior_mean, prior_logvar, seed, num_samples, detach_posterior,
// row_offset)
py::object rsample_with_log_ratio(Library library, Arguments arguments) {
  SampleCall sample("rsample_normal_with_log_ratio", library, arguments[7]);
  const std::array samples{sample.call.size("num_samples", arguments[5])};
  sample.call.flag("detach_posterior", arguments[6]);
  sample.read(arguments.first(4));
  const Extent extent = sample.extent(samples[0]);
  sample.make_views(arguments[4]);
  Result z = sample.call.result(sample.shape(samples, true)),
         log_ratio = sample.call.result(sample.shape(samples, false));
  sample.call.run([&] {
    with_dtype(sample.call.dtype(), [&]<class S> {
      SamplingKernels<S>::rsample_normal_with_log_ratio(extent, sample.parameters<S>(), static_cast<S*>(z.data()),
                                                        static_cast<S*>(log_ratio.data()));
    });
  });
  return py::make_tuple(z.release(), log_ratio.release());
}

// (grad of z, grad of the log ratio, and the arguments of the forward pass, needs)
py::object rsample_with_log_ratio_backward(Arguments arguments) {
  SampleCall sample("rsample_normal_with_log_ratio", Library::torch, arguments[9]);
  const std::array samples{sample.call.size("num_samples", arguments[7])};
  const bool detach_posterior = sample.call.flag("detach_posterior", arguments[8]);
  const std::vector<bool> needs = read_parameter_needs(sample.call, arguments[10], 4);
  sample.read(arguments.subspan(2, 4));
  const Extent extent = sample.extent(samples[0]);
  Operand by_z, by_ratio;
  const std::array<Operand*, 2> upstream{&by_z, &by_ratio};
  for (std::size_t i = 0; i < 2; ++i) {
    if (arguments[i] == Py_None) continue;
    sample.call.read_upstream(*upstream[i], arguments[i], sample.shape(samples, i == 0));
    make_contiguous(*upstream[i]);
  }
  OperandGradients gradients(sample.call, sample.plan, needs, upstream, [&] { sample.lay_out(); });
  if (gradients.is_empty()) return gradients.release(1);
  sample.make_views(arguments[6]);
  std::array<void*, 4> targets;
  for (std::size_t i = 0; i < 4; ++i) targets[i] = gradients.target(i).data;
  sample.call.run([&] {
    with_dtype(sample.call.dtype(), [&]<class S> {
      SamplingKernels<S>::rsample_normal_with_log_ratio_backward(
          extent, sample.parameters<S>(), detach_posterior, static_cast<const S*>(by_z.data()),
          {static_cast<const S*>(by_ratio.data()), by_ratio.given() ? extent.rows : 0, by_ratio.given() ? 1 : 0},
          {static_cast<S*>(targets[0]), static_cast<S*>(targets[1]), static_cast<S*>(targets[2]),
           static_cast<S*>(targets[3])});
    });
  });
  return gradients.release(1);
}

// The functions that fill a tensor write to its memory from the first element on.
void check_out(const Call& call, const Operand& out) {
  if (!out.is_contiguous() || !out.is_writable()) call.refuse("out must be contiguous and not read-only");
}

// fill_standard_normal(out, seed)
py::object fill_standard_normal(Library library, Arguments arguments) {
  Call call("standard_normal", library);
  Operand& out = call.read("out", arguments[0]);
  Operand seed_operand;
  std::int64_t local = 0;
  const Seed seed = call.seed(arguments[1], seed_operand, local);
  check_out(call, out);
  const std::int64_t count = out.elements();
  call.run([&] {
    with_dtype(call.dtype(),
               [&]<class S> { NoiseKernels<S>::standard_normal(static_cast<S*>(out.data()), count, seed); });
  });
  return py::none();
}

// fill_normal_noise(out, seed, row_offset), where out has the shape (samples, rows, columns)
py::object fill_normal_noise(Arguments arguments) {
  Call call("normal_noise", Library::torch);
  const std::int64_t row_offset = call.size("row_offset", arguments[2]);
  Operand& out = call.read("out", arguments[0]);
  check_out(call, out);
  if (out.shape().size() != 3) call.refuse("out has shape " + to_string(out.shape()) + ", expected three dimensions");
  const Extent extent{out.shape()[0], out.shape()[1], out.shape()[2]};
  Operand seed_operand;
  std::int64_t local = 0;
  const Seed seed = call.seed(arguments[1], seed_operand, local);
  call.run([&] {
    with_dtype(call.dtype(),
               [&]<class S> { NoiseKernels<S>::normal_noise(static_cast<S*>(out.data()), extent, seed, row_offset); });
  });
  return py::none();
}

// fill_philox_words(out, seed): the words of the generator, for its tests; out is an int64 tensor, two words in each
// number.
py::object fill_philox_words(Arguments arguments) {
  Operand out, seed;
  if (!out.read(arguments[0]) || !seed.read(arguments[1]) || out.dtype() != DType::int64 ||
      seed.dtype() != DType::int64 || seed.elements() != 1 || !out.is_contiguous() || out.elements() % 2 != 0) {
    throw std::invalid_argument("fill_philox_words: expected int64 tensors, out with an even number of elements");
  }
  std::vector<Result> scratch;
  enter_backend(out.library(), out.device(), scratch);
  philox_words(static_cast<std::uint32_t*>(out.data()), out.elements() / 2, static_cast<Seed>(seed.data()));
  return py::none();
}

}  // namespace

void bind_sampling(py::module_& m) {
  add_forward(m, "rsample_normal", 3, 5, rsample, 2);
  add_backward(m, "rsample_normal", 4, 7, rsample_backward);
  add_forward(m, "rsample_normal_with_log_ratio", 5, 8, rsample_with_log_ratio, 4);
  add_backward(m, "rsample_normal_with_log_ratio", 7, 11, rsample_with_log_ratio_backward);
  add_forward(m, "fill_standard_normal", 2, 2, fill_standard_normal);
  add_function(m, "fill_normal_noise", 3, fill_normal_noise);
  add_function(m, "fill_philox_words", 2, fill_philox_words);
}

}  // namespace fastvi
