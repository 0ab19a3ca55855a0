"""Read by every Python that has this folder on its path, and so also by the ranks of a launcher or of a fork."""

from __future__ import annotations

import bf16_on_cpu

bf16_on_cpu.install()
