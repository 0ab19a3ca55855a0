"""Plan which process sends which part of which tensor to which process, so that each gets the parts it wants."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from alignment.architecture.parts import Box, Part, overlap

MESSAGE_BYTES = 64 << 20
"""What a process sends or receives at a time."""
LAYER = re.compile(r"\.(\d+)\.")


class UncoveredError(ValueError):
    """No process holds a part that another one wants."""


class Transfer(NamedTuple):
    """A box sent from one process to another (or kept, if both are the same)."""

    name: str
    source: int
    target: int
    box: Box

    @property
    def size(self) -> int:
        """Its number of elements."""
        return box_size(self.box)


class Message(NamedTuple):
    """Boxes of several tensors sent together from one process to another."""

    source: int
    target: int
    pieces: tuple[Transfer, ...]

    @property
    def size(self) -> int:
        """Its number of elements."""
        return sum(piece.size for piece in self.pieces)


class PairRow(NamedTuple):
    """Totals of what one process sends to another, or keeps (``source == target``)."""

    source: int
    target: int
    num_tensors: int
    num_bytes: int


class Totals(NamedTuple):
    """Sums over a plan, in bytes."""

    wanted: int
    sent: int
    copied: int
    """Copied within a process, because the box changes."""
    zero_copy: int
    """Used in place."""
    largest_sender: int


@dataclass(frozen=True)
class ReshardPlan:
    """All transfers, in the same order for every process."""

    sources: tuple[Mapping[str, Part], ...]
    """The parts that each process holds, by name."""
    targets: tuple[Mapping[str, Part], ...]
    """The parts that each process wants, by name, in order of arrival."""
    transfers: tuple[Transfer, ...]

    def is_zero_copy(self, rank: int, name: str) -> bool:
        """Tell whether ``rank`` already holds exactly the part it wants."""
        return self.sources[rank].get(name) == self.targets[rank].get(name)

    def buckets(self, limit: int, dtypes: Mapping[str, str] | None = None) -> Iterator[list[Message]]:
        """Yield the transfers that move data, split and grouped so that no process sends and receives more than
        ``limit`` elements per group. Within a group, each pair of processes exchanges one message per dtype
        (``dtypes`` by tensor name; None: all the same).
        """
        bucket: dict[tuple[int, int, str | None], list[Transfer]] = {}
        loads: dict[int, int] = defaultdict(int)
        moving = (t for t in self.transfers if not (t.source == t.target and self.is_zero_copy(t.target, t.name)))
        for piece in (t._replace(box=box) for t in moving for box in cut_box(t.box, limit)):
            ends = {piece.source, piece.target}
            if any(loads[rank] + piece.size > limit for rank in ends):
                yield _messages(bucket)
                bucket = {}
                loads.clear()
            dtype = None if dtypes is None else dtypes[piece.name]
            bucket.setdefault((piece.source, piece.target, dtype), []).append(piece)
            for rank in ends:
                loads[rank] += piece.size
        if bucket:
            yield _messages(bucket)

    def table(self, bytes_per_element: int = 4) -> list[PairRow]:
        """Return a row for every pair of processes with transfers, for a dry run."""
        pairs: dict[tuple[int, int], list[Transfer]] = defaultdict(list)
        for transfer in self.transfers:
            pairs[transfer.source, transfer.target].append(transfer)
        return [
            PairRow(*pair, len({t.name for t in found}), bytes_per_element * sum(t.size for t in found))
            for pair, found in sorted(pairs.items())
        ]

    def totals(self, bytes_per_element: int = 4) -> Totals:
        """Return the sums over all processes."""
        sent: dict[int, int] = defaultdict(int)
        copied = zero_copy = 0
        for transfer in self.transfers:
            if transfer.source != transfer.target:
                sent[transfer.source] += transfer.size
            elif self.is_zero_copy(transfer.target, transfer.name):
                zero_copy += transfer.size
            else:
                copied += transfer.size
        sizes = (
            sum(t.size for t in self.transfers),
            sum(sent.values()),
            copied,
            zero_copy,
            max(sent.values(), default=0),
        )
        return Totals(*(bytes_per_element * size for size in sizes))


def plan_transfers(sources: Sequence[Sequence[Part]], targets: Sequence[Sequence[Part]]) -> ReshardPlan:
    """Plan the transfers from processes that hold ``sources`` (one list each) to processes that want ``targets``.

    Every element of a target is transferred exactly once: from the process itself if it holds it, else from the holder
    that has sent the least so far. UncoveredError names a part that no process holds.
    """
    held = tuple(_by_name(parts) for parts in sources)
    order = {name: index for index, name in enumerate(model_order(part.name for parts in targets for part in parts))}
    wanted = tuple(_by_name(sorted(parts, key=lambda part: order[part.name])) for parts in targets)
    takers: dict[str, list[int]] = defaultdict(list)
    for rank, parts in enumerate(wanted):
        for name in parts:
            takers[name].append(rank)
    sent = [0] * len(held)
    transfers: list[Transfer] = []
    for name in order:
        cells = _cells({rank: parts[name] for rank, parts in enumerate(held) if name in parts})
        for rank in takers[name]:
            own = held[rank].get(name) if rank < len(held) else None
            transfers += _gather(rank, wanted[rank][name], own, cells, sent)
    return ReshardPlan(held, wanted, tuple(transfers))


def model_order(names: Iterable[str]) -> list[str]:
    """Return the distinct names in model order: the embedding, layer by layer, the rest."""

    def position(name: str) -> tuple[int, int]:
        layer = LAYER.search(name)
        return (1, int(layer[1])) if layer else (0 if "embed" in name else 2, 0)

    return sorted(dict.fromkeys(names), key=position)


def box_size(box: Box) -> int:
    """Return the number of elements of a box."""
    return math.prod(stop - start for start, stop in box)


def cut_box(box: Box, limit: int) -> Iterator[Box]:
    """Split ``box`` into boxes of at most ``limit`` elements, in memory order."""
    if box_size(box) <= max(limit, 1):
        yield box
        return
    axis = next(i for i, (start, stop) in enumerate(box) if stop - start > 1)
    first, last = box[axis]
    step = max(1, limit * (last - first) // box_size(box))
    for start in range(first, last, step):
        inner = (start, min(start + step, last))
        yield from cut_box((*box[:axis], inner, *box[axis + 1 :]), limit)


def _by_name(parts: Sequence[Part]) -> dict[str, Part]:
    named = {part.name: part for part in parts}
    assert len(named) == len(parts), "a process holds at most one part of a tensor"
    return named


def _cells(held: Mapping[int, Part]) -> list[tuple[Box, list[int]]]:
    """Return disjoint boxes that cover everything held, each with the processes that hold it."""
    assert len({part.shape for part in held.values()}) <= 1, f"two shapes for one tensor: {held}"
    owners: dict[Box, list[int]] = defaultdict(list)
    for rank, part in held.items():
        if part.size:
            owners[part.box].append(rank)
    if not any(overlap(one, other) is not None for one, other in itertools.combinations(owners, 2)):
        return list(owners.items())
    edges = [sorted({edge for span in spans for edge in span}) for spans in zip(*owners, strict=True)]
    grid = itertools.product(*(itertools.pairwise(cuts) for cuts in edges))
    cells = ((box, [r for outer, ranks in owners.items() if overlap(box, outer) for r in ranks]) for box in grid)
    return [(box, sorted(ranks)) for box, ranks in cells if ranks]


def _gather(
    rank: int, want: Part, own: Part | None, cells: Sequence[tuple[Box, list[int]]], sent: list[int]
) -> list[Transfer]:
    """Return the transfers that give ``rank`` the part ``want``, and add their sizes to ``sent``."""
    if own is not None and overlap(own.box, want.box) == want.box:
        return [Transfer(want.name, rank, rank, want.box)]
    found = []
    for cell, holders in cells:
        box = overlap(cell, want.box)
        if box is None:
            continue
        source = rank if rank in holders else min(holders, key=lambda holder: (sent[holder], holder))
        found.append(Transfer(want.name, source, rank, box))
        if source != rank:
            sent[source] += found[-1].size
    if sum(transfer.size for transfer in found) != want.size:
        raise UncoveredError(f"nobody holds all of {want.name} {_span(want.box)} of {list(want.shape)}")
    return found


def _span(box: Box) -> str:
    return "[" + ", ".join(f"{start}:{stop}" for start, stop in box) + "]"


def _messages(bucket: Mapping[tuple[int, int, str | None], list[Transfer]]) -> list[Message]:
    return [Message(source, target, tuple(pieces)) for (source, target, _), pieces in bucket.items()]
