// The lists at run time: every declared operation once, with kernels for every dtype and the declaration's arguments.
#include <set>

#include "row_operations.h"

namespace fastvi::test {
namespace {

template <class... Operations>
void check_rows(OperationList<Operations...>) {
  check(row_operations().size() == sizeof...(Operations), "number of row operations");
  const auto check_one = []<class Operation>() {
    const RowOperation& found = named(row_operations(), Operation::name);
    check(found.operands.size() == Operation::operands.size() && found.required == Operation::required &&
              found.required >= 1 && found.required <= found.operands.size() &&
              found.constants.size() == Operation::constants.size(),
          std::string(Operation::name) + ": its arguments");
    for (std::size_t i = 0; i < num_dtypes; ++i) {
      check(found.forward[i] != nullptr && found.backward[i] != nullptr,
            std::string(Operation::name) + ": its kernels");
    }
  };
  (check_one.template operator()<Operations>(), ...);
}

template <class... Operations>
void check_maps(OperationList<Operations...>) {
  check(map_operations().size() == sizeof...(Operations), "number of map operations");
  const auto check_one = []<class Operation>() {
    const MapOperation& found = named(map_operations(), Operation::name);
    check(found.states.size() == Operation::states.size() && found.factors.size() == Operation::factors.size() &&
              found.required_factors <= found.factors.size() && found.outputs == Operation::outputs &&
              found.constants.size() == Operation::constants.size(),
          std::string(Operation::name) + ": its arguments");
    for (std::size_t i = 0; i < num_dtypes; ++i) {
      check(found.forward[i] != nullptr && found.backward[i] != nullptr,
            std::string(Operation::name) + ": its kernels");
    }
  };
  (check_one.template operator()<Operations>(), ...);
}

void check_names() {
  std::set<std::string> names;
  for (const RowOperation& operation : row_operations()) check(names.insert(operation.name).second, operation.name);
  for (const MapOperation& operation : map_operations()) check(names.insert(operation.name).second, operation.name);
}

}  // namespace
}  // namespace fastvi::test

int main() {
  fastvi::test::check_rows(fastvi::RowOperations{});
  fastvi::test::check_maps(fastvi::MapOperations{});
  fastvi::test::check_names();
  return fastvi::test::report("operations");
}
