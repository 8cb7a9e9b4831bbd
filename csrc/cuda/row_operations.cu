#include "../operation_tables.h"
#include "bernoulli.cuh"
#include "rows.cuh"

namespace fastvi {

std::span<const RowOperation> row_operations() { return row_table(RowOperations{}); }

}  // namespace fastvi
