#include "../operation_tables.h"
#include "map.cuh"

namespace fastvi {

std::span<const MapOperation> map_operations() { return map_table(MapOperations{}); }

}  // namespace fastvi
