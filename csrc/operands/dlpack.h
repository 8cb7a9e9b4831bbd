// The part of DLPack's binary interface, version 1, through which PyTorch hands out its tensors to C: the names,
// members and their order are those of its specification (https://dmlc.github.io/dlpack/latest/c_api.html).
#pragma once

#include <cstdint>

namespace fastvi::dlpack {

struct Version {
  std::uint32_t major, minor;
};

inline constexpr std::int32_t cpu = 1, cuda = 2;  // types of devices

struct Device {
  std::int32_t type, index;

  bool operator==(const Device&) const = default;
};

enum TypeCode : std::uint8_t { integer = 0, floating_point = 2, bfloat = 4 };

struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;

  bool operator==(const DataType&) const = default;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t rank;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements
  std::uint64_t byte_offset;
};

struct ManagedTensor {
  Version version;
  void* context;
  void (*deleter)(ManagedTensor*);
  std::uint64_t flags;
  Tensor tensor;
};

// The functions return 0, or -1 with a Python error set; `allocate` reports by `set_error` instead.
struct ExchangeApi {
  Version version;
  ExchangeApi* previous;
  int (*allocate)(Tensor* prototype, ManagedTensor** out, void* context,
                  void (*set_error)(void* context, const char* kind, const char* message));
  int (*managed_from_object)(void* object, ManagedTensor** out);
  int (*to_object)(ManagedTensor* tensor, void** out);
  int (*read_object)(void* object, Tensor* out);  // borrows the tensor's own shape and strides
  int (*current_stream)(std::int32_t device_type, std::int32_t device_index, void** out);
};

}  // namespace fastvi::dlpack
