"""No kernel of Paddle's CPU build is called that uses AVX-512 without asking whether the processor has it.

Its machine code was searched for the registers of AVX-512 (paddlepaddle 3.3.1, ``objdump -d`` of libphi_core.so and
libpaddle.so): outside of libraries that ask first (MKL, oneDNN) only kernels of ``phi::fusion`` use them, which are
called through ``paddle.incubate`` and the passes of its inference engine.
"""

from __future__ import annotations

import re

ALLOWED = {"alignment/ops/device_kernels.py": "not on a CPU (tests/unit/ops/test_device_kernels.py)"}
FUSION = re.compile(r"paddle\.incubate|paddle\.inference|_C_ops(?:\.(?!empty\b)| import)")
"""``_C_ops.empty`` only allocates."""


def test_fused_kernels_of_paddle_are_not_called(repo_root):
    found = {
        str(path.relative_to(repo_root))
        for path in (repo_root / "alignment").rglob("*.py")
        if FUSION.search(path.read_text(encoding="utf-8"))
    }
    assert found == set(ALLOWED)
