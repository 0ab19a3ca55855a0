// The training kernels of one instruction set; compiled once for each, with AC_ISA set to its name. See README.md.
#include "training_kernels.h"

#include "training_attention_kernel.h"
#include "training_row_kernel.h"
#include "training_update_kernel.h"

#define AC_JOIN_OF(a, b) a##b
#define AC_JOIN(a, b) AC_JOIN_OF(a, b)

namespace ac {

const TrainingKernels AC_JOIN(training_kernels_, AC_ISA) = {
    normalise_row, normalise_backward, gate, gate_backward, attend, attend_backward, summarise, logit_slopes,
    squares,       adamw,
};

}  // namespace ac
