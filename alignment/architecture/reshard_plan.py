"""Which process sends which rectangle of which tensor to whom, so that everyone gets the parts it wants. Pure."""

from __future__ import annotations

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from alignment.architecture.parts import Box, Part, overlap

LAYER = re.compile(r"\.(\d+)\.")


class UncoveredError(ValueError):
    """Nobody holds what somebody wants."""


class Transfer(NamedTuple):
    """A rectangle that goes from one process to another (or stays, when both are one)."""

    name: str
    source: int
    target: int
    box: Box

    @property
    def size(self) -> int:
        """Its number of elements."""
        return box_size(self.box)


class Message(NamedTuple):
    """Rectangles of several tensors that travel between two processes at once."""

    source: int
    target: int
    pieces: tuple[Transfer, ...]

    @property
    def size(self) -> int:
        """Its number of elements."""
        return sum(piece.size for piece in self.pieces)


class PairRow(NamedTuple):
    """What one process hands to another; ``source == target``: what stays where it is."""

    source: int
    target: int
    num_tensors: int
    num_bytes: int


class Totals(NamedTuple):
    """Sums over a plan, in bytes."""

    wanted: int
    sent: int
    copied: int
    """Copied inside a process, because its rectangle changes."""
    zero_copy: int
    """Used where they are."""
    largest_sender: int


@dataclass(frozen=True)
class ReshardPlan:
    """Every transfer in the one order in which all processes take them."""

    sources: tuple[Mapping[str, Part], ...]
    """What each process holds, by name."""
    targets: tuple[Mapping[str, Part], ...]
    """What each process wants, by name, in the order in which it gets it."""
    transfers: tuple[Transfer, ...]

    def is_zero_copy(self, rank: int, name: str) -> bool:
        """Return whether the tensor that ``rank`` holds is the very one it wants."""
        return self.sources[rank].get(name) == self.targets[rank].get(name)

    def buckets(self, limit: int, dtypes: Mapping[str, str] | None = None) -> Iterator[list[Message]]:
        """Yield the transfers that move something, cut and grouped so that in each group no process sends and receives
        more than ``limit`` elements; what goes between the same two processes in a group is one message for each of
        the ``dtypes``, given by name (None: all tensors have the same).
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
        """Return a row for every two processes with something between them, for a dry run."""
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
    """Plan how processes that hold ``sources`` (one list each) come to hold ``targets``.

    Every element of a target comes exactly once: from the process itself where it holds it, else from the holder that
    has sent least so far. UncoveredError names what nobody holds.
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
    """Return each name once, in the order of a model: what stands before the layers, layer by layer, the rest."""

    def position(name: str) -> tuple[int, int]:
        layer = LAYER.search(name)
        return (1, int(layer[1])) if layer else (0 if "embed" in name else 2, 0)

    return sorted(dict.fromkeys(names), key=position)


def box_size(box: Box) -> int:
    """Return the number of elements of a box."""
    return math.prod(stop - start for start, stop in box)


def cut_box(box: Box, limit: int) -> Iterator[Box]:
    """Yield boxes of at most ``limit`` elements that make up ``box``, in the order of memory."""
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
    """Return disjoint boxes that make up all that is held, and for each the processes that hold it."""
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
    """Return the transfers that give ``rank`` the part ``want``, and count them in ``sent``."""
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
