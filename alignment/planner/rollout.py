"""The weights and rows of a rollout in one process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from alignment.architecture import reshard_plan
from alignment.architecture.cuts import parts_of_rank
from alignment.architecture.families import EMBEDDING
from alignment.architecture.layout import Layout
from alignment.architecture.parts import Part, even_cut
from alignment.planner.counts.shapes import Held
from alignment.planner.job import Job

CHOICES = "experts' choices"
"""The component of what ``planner.choices`` counts."""


@dataclass(frozen=True, kw_only=True)
class RolloutMoment:
    """Bytes that a rollout needs at one moment, in addition to the trained weights."""

    name: str
    device: Mapping[str, int]
    host: Mapping[str, int] = field(default_factory=dict)


class Apart(NamedTuple):
    """The places of a process in the rollout's layout and among the policy's ranks."""

    index: int
    """Its number among the processes of the rollout."""
    trained: tuple[Layout, int] | None
    """The policy's layout and its number there; None: it trains nothing of the policy."""


@dataclass(frozen=True, kw_only=True)
class PlannedRollout:
    """The first tensor-parallel process of ``stage`` during generation."""

    job: Job
    layout: Layout
    stage: int
    apart: Apart | None = None
    """Where this process is if the rollout has ranks or degrees of its own; None: it has those of the policy."""

    @cached_property
    def inner(self) -> Layout:
        """The layout of one replica."""
        return self.job.rollout_layout(self.layout)

    @cached_property
    def responses(self) -> int:
        """Sequences generated in one replica."""
        replicas = self.layout.world_size // self.inner.world_size if self.job.eval_mode else self.layout.batch
        return -(-self.job.iteration_rows * self.layout.batch // replicas)

    @cached_property
    def rows(self) -> int:
        """Sequences generated at once in one replica."""
        return min(self.responses, self.job.side_by_side) if self.job.side_by_side > 0 else self.responses

    @property
    def makes_logits(self) -> bool:
        """Whether this process has the head."""
        return bool(self.job.eval_mode) or self.stage == self.layout.pipeline - 1

    @cached_property
    def columns(self) -> int:
        """Number of vocabulary tokens whose logits this process computes."""
        return even_cut(self.job.policy.vocab_size, self.inner.tensor, 0)[1] if self.makes_logits else 0

    @cached_property
    def wanted(self) -> list[Part]:
        """The parts of the policy that the rollout needs here."""
        first = self.stage * self.layout.tensor * self.layout.sharding
        rank = first if self.apart is None else self.apart.index
        return parts_of_rank(self.job.policy, "causal", self.inner, rank % self.inner.world_size)

    @cached_property
    def embedding(self) -> int:
        """Elements of the embedding in this process."""
        return next((part.size for part in self.wanted if part.name == EMBEDDING), 0)

    @cached_property
    def copied(self) -> int:
        """Bytes of the parts that cannot be used as training holds them."""
        return sum(part.size for part in self.wanted if part.name not in self._in_place) * self.job.item

    @cached_property
    def moved(self) -> int:
        """Bytes of the parts that training holds in another layout; matrices that are only merged are not moved."""
        return sum(part.size for part in self.wanted if part.name not in self._alike) * self.job.item

    @property
    def arriving(self) -> int:
        """Bytes of the messages at one time of what is moved, with the tensors that are cut from them."""
        if self.apart is not None and self.apart.trained is None:
            return 2 * min(self.moved, reshard_plan.MESSAGE_BYTES)
        return min(self.moved, 2 * reshard_plan.MESSAGE_BYTES)

    @cached_property
    def _in_place(self) -> set[str]:
        adapter = self.job.adapters.get("policy")
        merged = {f"{module}.weight" for module in adapter.modules} if adapter else set()
        return self._alike - merged

    @cached_property
    def _alike(self) -> set[str]:
        """The names of the parts that training holds as the rollout needs them."""
        wanted = {part.name: part.box for part in self.wanted}
        pieces = self._held.sharding if self._is_sliced else 1
        return {part.name for part in self._held.parts if wanted.get(part.name) == part.box and _is_uncut(part, pieces)}

    @cached_property
    def _held(self) -> Held:
        """What this process trains of the policy."""
        if self.apart is None:
            return Held.of(self.job.policy, "causal", self.layout, self.stage)
        if self.apart.trained is None:
            return Held((), 1)
        layout, index = self.apart.trained
        return Held(tuple(parts_of_rank(self.job.policy, "causal", layout, index)), layout.sharding)

    @property
    def _is_sliced(self) -> bool:
        """Whether the policy's weights are sharded."""
        trained = self.layout if self.apart is None else (self.apart.trained or (Layout(), 0))[0]
        return trained.sharding_stage == 3

    @cached_property
    def coming(self) -> int:
        """The peak of ``copied`` while it arrives: what has arrived, and a message.

        A process sends, receives and copies in groups of ``MESSAGE_BYTES``, and sends as much as it receives if it
        has something to send.
        """
        own = (self._held.rows if self._is_sliced else self._held.elements) * self.job.item
        received = max(0, self.copied - own)
        moved = self.copied + (received if own else 0)
        if not moved:
            return 0
        message = reshard_plan.MESSAGE_BYTES
        last = moved % message
        before = self.copied * (moved - last) // moved + min(moved, message) * received // moved
        return max(before, self.copied + last * received // moved)


def _is_uncut(part: Part, pieces: int) -> bool:
    """Return whether the first of ``pieces`` processes has all rows of ``part``."""
    return even_cut(part.extent[0], pieces, 0)[1] == part.extent[0]
