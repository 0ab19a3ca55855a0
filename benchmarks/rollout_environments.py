"""Make an environment for each peer of ``rollout.py``: ``python benchmarks/rollout_environments.py FOLDER [NAMES]``.

Packages come from the index that pip is configured with. ``llama`` is compiled by one job at low priority (about 15
minutes on one core); needed are a C++ compiler and cmake. An environment that is there is brought up to date.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from pathlib import Path

from rollout_work import PROCESSES

NAMES = [name for name, process in PROCESSES.items() if process.packages]
_WITHOUT_AMX = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" if platform.machine() == "x86_64" else ""
"""With AMX, compiled by GCC 12, the process of llama.cpp ended with an illegal instruction (``tilezero``)."""
BUILD = {
    "CFLAGS": _WITHOUT_AMX,
    "CXXFLAGS": _WITHOUT_AMX,
    "CMAKE_BUILD_PARALLEL_LEVEL": "1",
    "CMAKE_ARGS": "-DGGML_NATIVE=ON -DGGML_OPENMP=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF "
    "-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TESTS=OFF",
}
"""llama.cpp for this very processor, without its programs and without the matrix unit."""


def main() -> None:
    """Make what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"some of {', '.join(NAMES)}; none: all")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)} (allowed: {', '.join(NAMES)})")
    os.nice(10)
    for name in options.names or NAMES:
        target = options.folder / name
        subprocess.run([sys.executable, "-m", "venv", str(target)], check=True)
        install = [str(target / "bin" / "python"), "-m", "pip", "install", *PROCESSES[name].packages]
        subprocess.run(install, check=True, env={**os.environ, **BUILD})


if __name__ == "__main__":
    main()
