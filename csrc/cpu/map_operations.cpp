#include "../operation_tables.h"
#include "map.h"

namespace fastvi {

std::span<const MapOperation> map_operations() { return map_table(MapOperations{}); }

}  // namespace fastvi
