// The kernels of one instruction set; compiled once for each, with AC_ISA set to its name. See README.md.
#include "attention_kernel.h"
#include "kernels.h"
#include "product_kernel.h"
#include "row_kernel.h"

#define AC_TEXT_OF(name) #name
#define AC_TEXT(name) AC_TEXT_OF(name)
#define AC_JOIN_OF(a, b) a##b
#define AC_JOIN(a, b) AC_JOIN_OF(a, b)

namespace ac {

#if defined(__AVX512BF16__)
constexpr bool MULTIPLIES_NARROW = true;
#else
constexpr bool MULTIPLIES_NARROW = false;
#endif

extern const Kernels AC_JOIN(kernels_, AC_ISA);
const Kernels AC_JOIN(kernels_, AC_ISA) = {
    AC_TEXT(AC_ISA), PANEL, TILE_ROWS, MULTIPLIES_NARROW, multiply, normalise, mean_square, place_row, attend, cap_row,
};

}  // namespace ac
