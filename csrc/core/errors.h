// How a function of the C interface reports what went wrong.
#pragma once
#include <cstdint>
#include <string>

namespace ac {

// Keep `sentence` for ac_last_error() of this thread and return `code`.
int32_t fail(int32_t code, const std::string& sentence);

}  // namespace ac
