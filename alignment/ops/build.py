"""Compile the generation kernels now instead of at first use: ``python -m alignment.ops.build [--prebuilt]``."""

from __future__ import annotations

import argparse
import sys

from alignment.errors import UserError
from alignment.ops.native import build
from alignment.ops.native.library import CoreLibrary
from alignment.telemetry import log


def build_kernels(*, prebuilt: bool) -> CoreLibrary:
    """Compile, load and return the library; ``prebuilt`` puts it beside the package, for machines with no compiler.

    KernelBuildError says what is missing or where the compiler's messages are.
    """
    library = build.find_or_build(force=True)
    path = build.place_prebuilt(library.path) if prebuilt else library.path
    try:
        return CoreLibrary(path, f"prebuilt library {path}" if prebuilt else library.origin)
    except (OSError, AttributeError) as error:
        raise build.KernelBuildError(f"the library was built but cannot be loaded: {error}") from error


def main() -> int:
    """Build, and say in one line what came of it; exit status 1 without a library."""
    parser = argparse.ArgumentParser(prog="alignment.ops.build", description=__doc__)
    parser.add_argument("--prebuilt", action="store_true", help="put the library beside the package, for every user")
    prebuilt = parser.parse_args().prebuilt
    log.configure(output_dir=None, is_main=True)
    try:
        core = build_kernels(prebuilt=prebuilt)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{core.reason}; instruction set here: {core.isa}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
