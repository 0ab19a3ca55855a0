"""Split a list of micro-batches over processes, and gather the results."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import paddle

from alignment.architecture.parts import even_cut
from alignment.errors import UserError
from alignment.parallel.topology import Topology
from alignment.records import TokenBatch
from alignment.telemetry.wording import counted

T = TypeVar("T")

_ONE_PROCESS = Topology(device="cpu")
_MAX_NAMED = 8


class Shares:
    """Splits lists of micro-batches into contiguous shares, one for each process of ``topology.batch``."""

    def __init__(self, topology: Topology | None = None) -> None:
        """Without a ``topology`` this is the only process."""
        self._topology = topology or _ONE_PROCESS
        self._num_own = self._num_run = 0

    def take(self, batches: Sequence[TokenBatch], operation: str) -> list[TokenBatch]:
        """Return the micro-batches that this process runs for ``operation``.

        All processes get the same number, because they communicate during the passes: if the list does not divide
        evenly, some get its shortest one again as a filler (see ``is_filler``). UserError on every process if they do
        not all hold the same list.
        """
        self._check_agreement(batches, operation)
        group = self._topology.batch
        start, stop = even_cut(len(batches), group.size, group.index)
        positions = positions_of(batches, group.size, group.index)
        self._num_own, self._num_run = stop - start, len(positions)
        return [batches[position] for position in positions]

    def is_filler(self, index: int) -> bool:
        """Return whether micro-batch ``index`` of those taken last is a filler, whose loss does not count."""
        return index >= self._num_own

    def collect(self, items: Sequence[T]) -> list[T]:
        """Return the results of all shares for the micro-batches taken last, in the order of the full list.

        ``items`` has one result per micro-batch taken; those of all but the last stage are ignored.
        """
        pipeline, group = self._topology.pipeline, self._topology.batch
        if pipeline.is_last:
            assert len(items) == self._num_run, f"{len(items)} items for {self._num_run} micro-batches"
        own = pipeline.share_object(list(items[: self._num_own]), pipeline.size - 1, "results")
        return [item for part in group.gather_objects(own, "results") for item in part]

    def _check_agreement(self, batches: Sequence[TokenBatch], operation: str) -> None:
        world = self._topology.world
        if world.size == 1:
            return
        own = _digest(batches, operation)
        digests = [int(part) for part in world.gather(paddle.to_tensor(own), f"check before {operation}")]
        if len(set(digests)) == 1:
            return
        described = f"{self._topology.place} {operation} of {_describe(batches)}, digest {own & 0xFFFFFFFF:08x}"
        lines = world.gather_objects(described, "description of micro-batches")
        kinds = [lines[digests.index(digest)] for digest in dict.fromkeys(digests)]
        raise UserError(
            f"{self._topology.place}: all processes must run the same micro-batches, but there are {len(kinds)} "
            f"different lists among {world.size} processes; one of each:\n  " + "\n  ".join(kinds[:_MAX_NAMED])
        )


def positions_of(batches: Sequence[TokenBatch], pieces: int, index: int) -> list[int]:
    """Return the positions of the micro-batches of share ``index`` of ``pieces``, fillers last (``Shares.take``)."""
    start, stop = even_cut(len(batches), pieces, index)
    num_fillers = -(-len(batches) // pieces) - (stop - start)
    shortest = min(range(len(batches)), key=lambda i: int(batches[i].lengths.sum())) if num_fillers else 0
    return [*range(start, stop), *[shortest] * num_fillers]


def _digest(batches: Sequence[TokenBatch], operation: str) -> int:
    """Return a 63-bit hash of the operation, ids, lengths, targets, recorded experts and the shapes of fields."""
    state = hashlib.blake2b(f"{operation} {len(batches)}".encode(), digest_size=8)
    for batch in batches:
        fields = sorted((name, value.shape) for name, value in batch.fields.items())
        state.update(f"{batch.input_ids.shape} {batch.response_width} {fields}".encode())
        for array in (batch.input_ids, batch.lengths, batch.target_rows, batch.target_positions):
            state.update(array.tobytes())
        if batch.routed_experts is not None:
            state.update(batch.routed_experts.tobytes())
    return int.from_bytes(state.digest(), "big") >> 1


def _describe(batches: Sequence[TokenBatch]) -> str:
    shapes = [f"{list(b.input_ids.shape)} ({int(b.lengths.sum())} tokens)" for b in batches[:_MAX_NAMED]]
    more = ", ..." if len(batches) > _MAX_NAMED else ""
    return f"{counted(len(batches), 'micro-batch')} {', '.join(shapes)}{more}"
