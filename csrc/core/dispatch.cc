// Which kernels run, and the last error.
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstring>
#include <string>

#include "alignment_core.h"
#include "errors.h"
#include "model.h"

namespace ac {

extern const Kernels kernels_scalar, kernels_avx2, kernels_avx512, kernels_avx512bf16, kernels_avx512amx,
    kernels_neon;

namespace {

thread_local std::string last_error;
const Kernels* chosen = nullptr;

#if defined(__x86_64__)
// Linux gives a process the registers of the matrix unit only when it asks for them, once and for all its threads.
[[maybe_unused]] bool may_use_tiles() {
#if defined(__linux__)
  constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  static const bool granted = syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
  return granted;
#else
  return false;
#endif
}
[[maybe_unused]] bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
[[maybe_unused]] bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
[[maybe_unused]] bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
[[maybe_unused]] bool has_avx512amx() {
  return has_avx512bf16() && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") && may_use_tiles();
}
#endif
bool always() { return true; }

struct Candidate {
  const Kernels* kernels;
  bool (*runs_here)();
};

// Best first.
const Candidate CANDIDATES[] = {
#if defined(AC_WITH_AVX512AMX)
    {&kernels_avx512amx, has_avx512amx},
#endif
#if defined(AC_WITH_AVX512BF16)
    {&kernels_avx512bf16, has_avx512bf16},
#endif
#if defined(AC_WITH_AVX512)
    {&kernels_avx512, has_avx512},
#endif
#if defined(AC_WITH_AVX2)
    {&kernels_avx2, has_avx2},
#endif
#if defined(AC_WITH_NEON)
    {&kernels_neon, always},
#endif
    {&kernels_scalar, always},
};

}  // namespace

int32_t fail(int32_t code, const std::string& sentence) {
  last_error = sentence;
  return code;
}

const Kernels* current_kernels() {
  if (chosen) return chosen;
  for (const Candidate& candidate : CANDIDATES) {
    if (candidate.runs_here()) return candidate.kernels;
  }
  return &kernels_scalar;
}

}  // namespace ac

extern "C" {

int32_t ac_abi_version(void) { return AC_ABI_VERSION; }

const char* ac_last_error(void) { return ac::last_error.c_str(); }

const char* ac_isa(void) { return ac::current_kernels()->isa; }

int32_t ac_set_isa(const char* name) {
  for (const ac::Candidate& candidate : ac::CANDIDATES) {
    if (std::strcmp(candidate.kernels->isa, name) != 0) continue;
    if (!candidate.runs_here()) {
      return ac::fail(AC_BAD_ARGUMENT, std::string("this machine has no ") + name + " instructions");
    }
    ac::chosen = candidate.kernels;
    return AC_OK;
  }
  return ac::fail(AC_BAD_ARGUMENT, std::string("the library was built without kernels for ") + name);
}

}  // extern "C"
