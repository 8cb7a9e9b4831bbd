#include "../operation_tables.h"
#include "bernoulli.h"
#include "rows.h"

namespace fastvi {

std::span<const RowOperation> row_operations() { return row_table(RowOperations{}); }

}  // namespace fastvi
