// How a function of the C interface reports what went wrong.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <string>

namespace acu {

// Keep `sentence` for acu_last_error() of this thread and return `code`.
int32_t fail(int32_t code, const std::string& sentence);

// Report an error of the work that this thread has started since the last call; 0 when there is none.
int32_t check_device(const char* where);

// Report what a call of CUDA's runtime returned.
int32_t check(cudaError_t error, const char* what);

}  // namespace acu
