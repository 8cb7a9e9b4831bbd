// The tables of operations.h for one backend, made from the declarations and from the backend's skeletons, which its
// rows and map headers define and which are found where the tables are made:
//
//   reduce_rows(extent, operands, out, term)                      out[k, b] = the sum of term.value over columns
//   row_gradients(extent, operands, upstream, gradients, term)    upstream times what term.gradient gives
//   map_rows(rows, columns, states, factors, outputs, term)       the columns of outputs are those of term.value
//   map_gradients(rows, columns, states, factors, upstream, gradients, term)
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "operations.h"

namespace fastvi {

// The first `count` of what is known without its type, seen as elements of type S.
template <class S, std::size_t count, class From>
auto typed_array(const From* from) {
  std::array<decltype(typed<S>(*from)), count> made;
  std::transform(from, from + count, made.begin(), [](const From& each) { return typed<S>(each); });
  return made;
}

template <class T, std::size_t count>
std::array<T, count> cast_constants(const double* constants) {
  std::array<T, count> made{};
  std::transform(constants, constants + count, made.begin(), [](double constant) { return static_cast<T>(constant); });
  return made;
}

// A term whose first operand's gradient costs much, and is seldom asked for, has another one without it.
template <class Term>
concept HasCostlyFirst = requires { typename Term::OfParameters; };

template <class Operation, class S>
struct RowKernels {
  static void forward(const Extent& extent, const View* operands, const double* constants, void* out) {
    with_term(operands, constants, [&]<class Term>(const Term& term) {
      reduce_rows(extent, typed_array<S, Term::operands>(operands), typed<S>(out), term);
    });
  }

  static void backward(const Extent& extent, const View* operands, const double* constants, const View& upstream,
                       const GradientView<void>* gradients) {
    const auto with = [&]<class Term>(const Term& term) {
      row_gradients(extent, typed_array<S, Term::operands>(operands), typed<S>(upstream),
                    typed_array<S, Term::operands>(gradients), term);
    };
    with_term(operands, constants, [&]<class Term>(const Term& term) {
      if constexpr (HasCostlyFirst<Term>) {
        if (gradients[0].data == nullptr) return with(typename Term::OfParameters{});
      }
      with(term);
    });
  }

 private:
  template <class Use>
  static void with_term(const View* operands, const double* constants, const Use& use) {
    using T = ComputeType<S>;
    constexpr std::size_t count = Operation::operands.size();
    const bool complete = Operation::required == count || operands[Operation::required].data != nullptr;
    Operation::template with_term<T>(complete ? count : Operation::required,
                                     cast_constants<T, Operation::constants.size()>(constants), use);
  }
};

// Null where not wanted. Factors' gradients are in the type of the arithmetic, as the factors are.
template <class S, std::size_t states, std::size_t factors>
struct MapGradients {
  std::array<S*, states> state;
  std::array<ComputeType<S>*, factors> factor;
};

template <class Operation, class S>
struct MapKernels {
  using T = ComputeType<S>;
  static constexpr std::size_t states = Operation::states.size(), factors = Operation::factors.size();
  static constexpr std::size_t outputs = Operation::outputs;

  static void forward(std::int64_t rows, std::int64_t columns, const View* views, const FactorView<void>* factor_views,
                      const double* constants, void* const* out) {
    map_rows(rows, columns, typed_array<S, states>(views), typed_array<T, factors>(factor_views),
             typed_array<S, outputs>(out), term(constants));
  }

  static void backward(std::int64_t rows, std::int64_t columns, const View* views, const FactorView<void>* factor_views,
                       const double* constants, const void* const* upstream, void* const* gradients) {
    const MapGradients<S, states, factors> targets{typed_array<S, states>(gradients),
                                                   typed_array<T, factors>(gradients + states)};
    map_gradients(rows, columns, typed_array<S, states>(views), typed_array<T, factors>(factor_views),
                  typed_array<S, outputs>(upstream), targets, term(constants));
  }

 private:
  static auto term(const double* constants) {
    return Operation::template term<T>(cast_constants<T, Operation::constants.size()>(constants));
  }
};

// One kernel for each type of `DType`, in its order. (A pack of the types would be shorter; nvcc garbles its
// expansion.)
template <class Operation>
constexpr RowOperation row_operation() {
  return {Operation::name,
          Operation::operands,
          Operation::required,
          Operation::constants,
          {{&RowKernels<Operation, float>::forward, &RowKernels<Operation, double>::forward,
            &RowKernels<Operation, BFloat16>::forward, &RowKernels<Operation, Float16>::forward}},
          {{&RowKernels<Operation, float>::backward, &RowKernels<Operation, double>::backward,
            &RowKernels<Operation, BFloat16>::backward, &RowKernels<Operation, Float16>::backward}}};
}

template <class Operation>
constexpr MapOperation map_operation() {
  return {Operation::name,
          Operation::states,
          Operation::factors,
          Operation::required_factors,
          Operation::constants,
          Operation::outputs,
          {{&MapKernels<Operation, float>::forward, &MapKernels<Operation, double>::forward,
            &MapKernels<Operation, BFloat16>::forward, &MapKernels<Operation, Float16>::forward}},
          {{&MapKernels<Operation, float>::backward, &MapKernels<Operation, double>::backward,
            &MapKernels<Operation, BFloat16>::backward, &MapKernels<Operation, Float16>::backward}}};
}

template <class... Operations>
std::span<const RowOperation> row_table(OperationList<Operations...>) {
  static constexpr std::array table{row_operation<Operations>()...};
  return table;
}

template <class... Operations>
std::span<const MapOperation> map_table(OperationList<Operations...>) {
  static constexpr std::array table{map_operation<Operations>()...};
  return table;
}

}  // namespace fastvi
