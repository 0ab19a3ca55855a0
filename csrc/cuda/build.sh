#!/bin/sh
# Compile the kernels: build.sh OUT.so            for sm_80 and sm_90a (and later), with nvcc and cuBLASLt
#                      build.sh --objects DIR     objects only, without linking
#                      build.sh --emulated OUT.so for the host, with g++: what the tests run
#                      build.sh --cublas          print version and folder of the cuBLASLt that would be used, if any
# CUDA_EMULATED_FLAGS: more flags for the last, such as -fsanitize=address,undefined.
# NVCC, CXX, PYTHON: other programs than nvcc, g++ and python3, whose packages may hold cuBLASLt.
# CUBLAS_ROOT: folder with include/cublasLt.h and lib/libcublasLt.so*, when neither nvcc nor python3's packages have it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
sources=$(ls "$here"/*.cu)
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT

running=
object_of() { echo "$objects/$(basename "$1").o"; }

if [ "$1" = --emulated ]; then
    for source in $sources "$here"/emulated/*.cc; do
        case $source in */cuda/matmul.cu) continue ;; esac
        # shellcheck disable=SC2086
        "${CXX:-g++}" -std=c++17 -O2 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas \
            -Wno-clobbered ${CUDA_EMULATED_FLAGS:-} -I"$here/emulated" -x c++ -c "$source" -o "$(object_of "$source")" &
        running="$running $!"
    done
    for job in $running; do wait "$job"; done
    # shellcheck disable=SC2086
    "${CXX:-g++}" -shared ${CUDA_EMULATED_FLAGS:-} "$objects"/*.o -o "$2"
    exit
fi

has_cublas() { echo '#include <cublasLt.h>' | "${NVCC:-nvcc}" ${1:+-I"$1/include"} -E -x cu - >/dev/null 2>&1; }

# The folder that holds cuBLASLt, empty when nvcc finds it by itself.
find_cublas() {
    if [ -n "${CUBLAS_ROOT:-}" ]; then
        echo "$CUBLAS_ROOT"
    elif ! has_cublas ""; then
        "${PYTHON:-python3}" -c 'import pathlib, sys
for folder in sys.path:
    for header in sorted(pathlib.Path(folder, "nvidia").glob("cu*/include/cublasLt.h")):
        sys.exit(print(header.parent.parent))'
    fi
}

root=$(find_cublas)
if [ "$1" = --cublas ]; then
    printf '#include <cublasLt.h>\nCUBLAS_VER_MAJOR CUBLAS_VER_MINOR CUBLAS_VER_PATCH CUBLAS_VER_BUILD\n' |
        "${NVCC:-nvcc}" ${root:+-I"$root/include"} -E -P -x cu - 2>/dev/null | tail -n 1
    echo "$root"
    exit
fi
if [ "$1" != --objects ] && ! has_cublas "$root"; then
    echo "error: no cublasLt.h: install nvidia-cublas, or set CUBLAS_ROOT" >&2
    exit 1
fi
compile() { # source object
    "${NVCC:-nvcc}" -std=c++17 -O3 --fmad=false -Xcompiler -fPIC,-fvisibility=hidden,-Wall ${root:+-I"$root/include"} \
        -gencode arch=compute_80,code=[sm_80,compute_80] -gencode arch=compute_90a,code=sm_90a -c "$1" -o "$2"
}

if [ "$1" = --objects ]; then
    for source in $sources; do compile "$source" "$2/$(basename "$source").o"; done
    exit
fi
for source in $sources; do
    compile "$source" "$(object_of "$source")" &
    running="$running $!"
done
for job in $running; do wait "$job"; done
library=-lcublasLt
if [ -n "$root" ]; then
    folder="$root/lib"
    library="-Xlinker $(ls "$folder"/libcublasLt.so* | head -n 1) -Xlinker -rpath -Xlinker $folder"
fi
# shellcheck disable=SC2086
"${NVCC:-nvcc}" -shared "$objects"/*.o $library -o "$1"
