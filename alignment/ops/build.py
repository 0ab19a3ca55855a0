"""Compile kernels now instead of at first use: ``python -m alignment.ops.build [--cuda] [--prebuilt]``."""

from __future__ import annotations

import argparse
import sys

from alignment.errors import UserError
from alignment.ops.native import build
from alignment.ops.native.cuda import kinds
from alignment.ops.native.cuda.library import CudaLibrary
from alignment.ops.native.library import CoreLibrary
from alignment.telemetry import log


def build_kernels(*, prebuilt: bool, cuda: bool = False) -> CoreLibrary | CudaLibrary:
    """Compile, load and return the library, that of the CPU's kernels or of the ``cuda`` ones.

    ``prebuilt`` puts it beside the package, for machines with no compiler.

    KernelBuildError says what is missing or where the compiler's messages are.
    """
    kind, load = (kinds.CUDA, CudaLibrary) if cuda else (build.CORE, CoreLibrary)
    library = build.find_or_build(kind=kind, force=True)
    path = build.place_prebuilt(library.path, kind=kind) if prebuilt else library.path
    try:
        return load(path, f"prebuilt library {path}" if prebuilt else library.origin)
    except (OSError, AttributeError) as error:
        raise build.KernelBuildError(f"the library was built but cannot be loaded: {error}") from error


def main() -> int:
    """Build the library and print the result in one line; return exit status 1 on failure."""
    parser = argparse.ArgumentParser(prog="alignment.ops.build", description=__doc__)
    parser.add_argument("--prebuilt", action="store_true", help="put the library beside the package, for every user")
    parser.add_argument("--cuda", action="store_true", help="the kernels for GPUs, with nvcc and cuBLASLt")
    options = parser.parse_args()
    log.configure(output_dir=None, is_main=True)
    try:
        library = build_kernels(prebuilt=options.prebuilt, cuda=options.cuda)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(library.reason if options.cuda else f"{library.reason}; instruction set here: {library.isa}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
