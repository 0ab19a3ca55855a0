"""Settings of the fused engine."""

from __future__ import annotations

import re
from dataclasses import dataclass

from alignment.architecture.decoder_config import DecoderConfig
from alignment.errors import UserError
from alignment.generation.fused.blocks import blocks_of_slot

TYPE_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
WEIGHT_TYPES = tuple(TYPE_BYTES)
ROWS_ON_DEVICE = 2048
"""``max_rows`` on a GPU, which a few hundred do not keep busy."""
POSITIONS_OF_SPLIT = 256
"""Positions of a row that one thread block of a GPU covers when attention is split (CHUNK of csrc/cuda)."""
PRODUCT_WORKSPACE_BYTES = 32 << 20
"""Memory of cuBLASLt on a GPU (WORKSPACE_BYTES of csrc/cuda/matmul.cu)."""
INT8_ROW_UNIT = 64
"""Numbers to whose multiples a GPU pads a row of int8 weights (BYTE_SLICE of csrc/cuda)."""
KV_TYPES = ("float32", "bfloat16")
DRAFT_METHODS = ("ngram", "previous")
AUTO = "auto"
_UNITS = {"": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedSettings:
    """Settings of a fused engine; UserError for invalid values."""

    num_slots: int = 32
    """The most sequences in flight."""
    kv_memory: int | str = "1GiB"
    """Size of the key-value cache in bytes, or as a number with KiB, MiB or GiB."""
    max_length: int | None = None
    """The longest prompt and answer together in tokens; None: as many as the model has positions."""
    max_rows: int = 512
    """Tokens per pass during prefill; limits scratch memory and the wait of decoding sequences."""
    block_tokens: int = 64
    """Tokens per key-value block; long blocks are read faster but waste more memory at their ends."""
    weight_type: str = "float32"
    kv_type: str = "float32"
    threads: int = 1
    speculative_tokens: int | str = 0
    """The most tokens that are drafted for a sequence and computed with its newest one; 0: none; ``auto``: as many as
    pay by the share of drafts that were right."""
    speculative_method: str = "ngram"
    """Where drafts come from: ``ngram``, the sequence itself; ``previous``, also the last answers to its prompt."""

    def __post_init__(self) -> None:
        length, block, drafts = self.max_length, self.block_tokens, self.speculative_tokens
        rules = (
            ("num_slots", self.num_slots >= 1, "1 or more"),
            ("max_length", length is None or length >= 2, "2 or more, or none"),
            ("max_rows", self.max_rows >= 1, "1 or more"),
            ("block_tokens", block >= 16 and block % 16 == 0, "a multiple of 16"),
            ("weight_type", self.weight_type in WEIGHT_TYPES, ", ".join(WEIGHT_TYPES)),
            ("kv_type", self.kv_type in KV_TYPES, ", ".join(KV_TYPES)),
            ("threads", self.threads >= 1, "1 or more"),
            ("speculative_tokens", drafts == AUTO or drafts >= 0, "0 or more, or auto"),
            ("speculative_method", self.speculative_method in DRAFT_METHODS, ", ".join(DRAFT_METHODS)),
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


def full_length_bytes(config: DecoderConfig, *, num_slots: int, max_length: int, kv_type: str, shards: int = 1) -> int:
    """Return the bytes of keys and values of ``num_slots`` sequences of ``max_length`` tokens; heads are divided among
    ``shards`` processes.
    """
    block_tokens = FusedSettings().block_tokens
    kv_heads = max(1, config.num_key_value_heads // shards)
    token = 2 * config.num_hidden_layers * kv_heads * config.head_dim * TYPE_BYTES[kv_type]
    return num_slots * blocks_of_slot(max_length, block_tokens) * block_tokens * token


def read_bytes(memory: int | str) -> int:
    """Return the bytes of ``memory`` (such as 4096, "4096", "1.5GiB", "300 MiB"); UserError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(|[kmg]ib)\s*", str(memory), re.IGNORECASE)
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise UserError(
            f"rollout_kv_memory={memory!r} (allowed: bytes, or a number with KiB, MiB or GiB such as '1.5GiB')"
        )
    return size
