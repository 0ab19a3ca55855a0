"""Numbers and types a fused engine is built with."""

from __future__ import annotations

import re
from dataclasses import dataclass

from alignment.errors import UserError

WEIGHT_TYPES = ("float32", "bfloat16", "int8")
KV_TYPES = ("float32", "bfloat16")
_UNITS = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedSettings:
    """How a fused engine divides time and memory; impossible values raise UserError."""

    num_slots: int = 32
    """Sequences in flight."""
    kv_memory: int | str = "1GiB"
    """Bytes for keys and values of all sequences in flight, or a number with KiB, MiB or GiB."""
    max_length: int | None = None
    """Tokens of the longest prompt and answer together; None: what the model's positions allow."""
    max_rows: int = 512
    """Tokens computed in one pass while prompts are read; bounds scratch memory and how long others wait."""
    block_tokens: int = 64
    """Tokens of a block of keys and values; long blocks are read faster and waste more at their ends."""
    weight_type: str = "float32"
    kv_type: str = "float32"
    threads: int = 1

    def __post_init__(self) -> None:
        length, block = self.max_length, self.block_tokens
        rules = (
            ("num_slots", self.num_slots >= 1, "1 or more"),
            ("max_length", length is None or length >= 2, "2 or more, or none"),
            ("max_rows", self.max_rows >= 1, "1 or more"),
            ("block_tokens", block >= 16 and block % 16 == 0, "a multiple of 16"),
            ("weight_type", self.weight_type in WEIGHT_TYPES, ", ".join(WEIGHT_TYPES)),
            ("kv_type", self.kv_type in KV_TYPES, ", ".join(KV_TYPES)),
            ("threads", self.threads >= 1, "1 or more"),
        )
        problems = [
            f"{name}={getattr(self, name)!r} (allowed: {allowed})" for name, right, allowed in rules if not right
        ]
        if problems:
            raise UserError("fused engine: " + "; ".join(problems))
        read_bytes(self.kv_memory)

    @property
    def kv_bytes(self) -> int:
        """``kv_memory`` in bytes."""
        return read_bytes(self.kv_memory)


def read_bytes(memory: int | str) -> int:
    """Return the bytes of ``memory`` (4096, "4096", "1.5GiB", "300 MiB"); raises UserError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(|[kmg]ib)\s*", str(memory), re.IGNORECASE)
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise UserError(
            f"rollout_kv_memory={memory!r} (allowed: bytes, or a number with KiB, MiB or GiB such as '1.5GiB')"
        )
    return size
