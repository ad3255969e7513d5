// The kernels as XLA calls them. saxml/ops says what each takes and gives.
#ifndef NATIVE_KERNELS_FFI_H_
#define NATIVE_KERNELS_FFI_H_

#include <span>

#include "xla/ffi/api/c_api.h"

namespace sax::kernels {

struct FfiHandler {
  const char* name;
  XLA_FFI_Handler* handler;
};

std::span<const FfiHandler> FfiHandlers();

}  // namespace sax::kernels

#endif  // NATIVE_KERNELS_FFI_H_
