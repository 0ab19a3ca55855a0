"""A teacher in a layout of its own: teams of neighbouring processes, each of which holds all of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import Tensor

from alignment.architecture.parts import even_cut
from alignment.models.decoder.decoder import CausalLM
from alignment.ops.head_product import HeadProduct
from alignment.parallel.initialise import teacher_groups
from alignment.parallel.runner import ModelRunner
from alignment.parallel.shares import positions_of
from alignment.parallel.topology import Topology, batch_index
from alignment.records import TokenBatch


class TeacherTeams:
    """The teams of ``degree`` processes beside the student's layout ``topology``; all processes create it together.

    Teams whose processes need the same micro-batches are peers: they divide the work and send each other the results.
    """

    def __init__(self, topology: Topology, degree: int) -> None:
        self._topology, self._degree = topology, degree
        self.team, self._peers = teacher_groups(topology, degree)
        self._indices = dict.fromkeys(batch_index(rank, topology.layout) for rank in self._peers.ranks)

    def shares(self, batches: Sequence[TokenBatch]) -> list[list[int]]:
        """Return the positions in ``batches`` that each team of these peers runs, a list for each team."""
        pieces = self._topology.layout.batch
        needed = list(dict.fromkeys(i for index in self._indices for i in positions_of(batches, pieces, index)))
        teams = self._peers.size // self._degree
        return [needed[slice(*even_cut(len(needed), teams, number))] for number in range(teams)]

    @property
    def number(self) -> int:
        """The number of this process's team among its peers."""
        return self._peers.index // self._degree

    def exchange(self, batches: Sequence[TokenBatch], found: dict[int, Tensor], model: CausalLM) -> dict[int, Tensor]:
        """Return the hidden states [T, H] of the micro-batches that the student runs in this process, by position.

        ``found`` has those that this team computed with ``model``, the teacher, and is empty afterwards.
        """
        batch, width = self._topology.batch, model.config.head_width
        own = set(positions_of(batches, batch.size, batch.index)) if self._topology.pipeline.is_last else set()
        kept = {}
        for number, positions in enumerate(self.shares(batches)):
            for position in positions:
                states = found.pop(position, None)
                if self._peers.size > self._degree:
                    if states is None:
                        states = paddle.empty([batches[position].num_targets, width], model.model.dtype)
                    self._peers.broadcast_(states, number * self._degree, "the teacher's hidden states")
                if position in own:
                    kept[position] = states
        return kept

    def head_of(self, model: CausalLM, student: CausalLM) -> HeadProduct | None:
        """Return a copy of the columns of the teacher's vocabulary head for the ids that ``student`` has here; None
        where it has no head.

        Ids that only the teacher has are in the student's last process. All processes of a team call it together.
        """
        vocabulary, shared = model.config.vocab_size, self._topology.tensor
        start, stop = even_cut(student.config.vocab_size, shared.size, shared.index)
        stop = vocabulary if shared.is_last else min(stop, vocabulary)
        weight, transposed = model.head()
        axis, pieces = 0 if transposed else 1, []
        for index in range(self.team.size):
            first, last = even_cut(vocabulary, self.team.size, index)
            shape = list(weight.shape)
            shape[axis] = last - first
            piece = weight.detach().clone() if index == self.team.index else paddle.empty(shape, weight.dtype)
            self.team.broadcast_(piece, index, "the teacher's vocabulary head")
            low, high = max(first, start), min(last, stop)
            if low < high and self._topology.pipeline.is_last:
                pieces.append(piece.slice([axis], [low - first], [high - first]))
        cap = model.config.logit_cap
        return HeadProduct(paddle.concat(pieces, axis=axis), transposed, cap=cap) if pieces else None


class TeamRunner:
    """Runs micro-batches with the model of ``runner``, which has this process alone, in the share of its team."""

    def __init__(self, runner: ModelRunner, teams: TeacherTeams, world: Any) -> None:
        self.model = runner.model
        self._runner, self._teams, self._world = runner, teams, world

    def forward(self, batches: Sequence[TokenBatch], read: Callable[[Any, TokenBatch], Any]) -> list[Any]:
        """Return what ``read`` returns for the micro-batches of all teams, in no particular order."""
        own = [batches[position] for position in self._teams.shares(batches)[self._teams.number]]
        parts = self._world.gather_objects(self._runner.forward(own, read), "results of the teacher")
        return [item for part in parts for item in part]
