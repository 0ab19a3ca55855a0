"""The frozen teacher of a distillation: its hidden states before each target stay in the process that computed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np
import paddle
from paddle import Tensor

from alignment.architecture.cuts import team_problem
from alignment.architecture.parts import even_cut
from alignment.errors import ArgumentError, diverged
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.logprobs import predicting_hidden
from alignment.models.decoder.placement import Placement
from alignment.models.decoder.split_divergence import DivergenceKind, TeacherTokens, divergence_logprobs
from alignment.models.decoder.split_vocabulary import VocabularyShare
from alignment.models.folders.hub import check_fit, load_causal_lm, resolve_model_folder
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.ops.head_product import HeadProduct
from alignment.parallel.runner import ModelRunner
from alignment.parallel.topology import Topology
from alignment.records import TokenBatch
from alignment.runs.frozen import frozen_model
from alignment.runs.launch import Launch
from alignment.runs.models import check_layout, check_same_tokens, freeze
from alignment.runs.offline.models import POLICY
from alignment.runs.offline.reference import Reference, ReferenceSource
from alignment.runs.offline.teacher_teams import TeacherTeams, TeamRunner
from alignment.runs.placed import place_frozen
from alignment.telemetry import log
from alignment.telemetry.wording import counted

KEY = "teacher_model_name_or_path"


class Teacher:
    """Gives the divergence of a student from the frozen model of ``runner`` at the target tokens.

    In the student's layout a process runs the same micro-batches with both models, and its last layers have the same
    ids of the vocabulary: so hidden states need not be sent. Logits are made piece by piece, beside the student's.
    """

    def __init__(
        self,
        runner: ModelRunner,
        kind: DivergenceKind,
        *,
        is_offloaded: bool = False,
        teams: TeacherTeams | None = None,
        head: HeadProduct | None = None,
    ) -> None:
        """``is_offloaded``: the weights are on the device only while the runner works. ``teams``: the layout of a
        teacher with one of its own, whose ``head`` has the student's columns here.
        """
        self._runner = runner
        self._kind = kind
        self._is_offloaded = is_offloaded
        self._teams = teams
        self._head = head
        self._kept: dict[int, tuple[TokenBatch, Tensor]] = {}
        """Micro-batches and their hidden states [T, H], by the identity of the micro-batch."""

    def prepare(self, batches: Sequence[TokenBatch], _: ModelRunner) -> None:
        """Run the teacher on all micro-batches of an update; ``read`` then takes these, and no earlier ones.

        All processes call it. NumericalError if its numbers are not finite.
        """
        self._kept.clear()
        sums = self._runner.forward(batches, self._keep)
        if not np.isfinite(sums).all():
            found, when = "its hidden states are NaN or infinite", "for the rows of this update or evaluation"
            raise diverged("teacher", found, when, num_updates=0, is_trained=False)
        if self._teams is not None:
            found = {i: self._kept.pop(id(batch))[1] for i, batch in enumerate(batches) if id(batch) in self._kept}
            shared = self._teams.exchange(batches, found, self._runner.model)
            self._kept = {id(batches[i]): (batches[i], states) for i, states in shared.items()}

    def read(self, model: CausalLM, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the student's log-probs of the targets, the divergences, and the teacher's log-probs, [T] each."""
        _, states = self._kept[id(batch)]
        group = model.placement.tensor
        own, taught = model.config.vocab_size, self._runner.model.config.vocab_size
        # The columns of the last process, whose share may be longer with a teacher of more ids.
        last = taught - even_cut(own, group.size, group.size - 1)[0]
        return divergence_logprobs(
            predicting_hidden(model, batch),
            model.head_product(),
            paddle.to_tensor(batch.target_ids),
            teacher=TeacherTokens(states, self._head, max(-(-own // group.size), last)),
            share=VocabularyShare(group, model.first_token),
            kind=self._kind,
        )

    def as_reference(self) -> Reference:
        """Return it as what a task compares the student with."""
        return Reference(self.prepare, read=self.read, stage="teacher")

    def _keep(self, model: CausalLM, batch: TokenBatch) -> Tensor:
        states = predicting_hidden(model, batch).detach()
        self._kept[id(batch)] = batch, states
        if self._head is None and self._teams is None:
            head = model.head_product()
            self._head = replace(head, weight=head.weight.clone()) if self._is_offloaded else head
        return states.astype("float32").sum()


def find_teacher(launch: Launch, student: str | None, tokenizer: Tokenizer) -> ReferenceSource:
    """Return the teacher named by the arguments; ArgumentError if it cannot teach the model in ``student`` (None: one
    with random weights). No weights are read.
    """
    named, world = launch.parsed.teacher.teacher_model_name_or_path, launch.topology.world
    folder = str(resolve_model_folder(named, parts=POLICY.parts))
    check_same_tokens(f"{KEY}={named}", folder, tokenizer, reader="the student")
    config = check_fit(folder, tokenizer, max_length=launch.parsed.data.max_length)
    degree = launch.parsed.teacher.own_degree(world.size)
    if degree is None:
        check_layout(launch, config, folder)
    elif problem := team_problem(config, degree, processes=world.size):
        raise ArgumentError(f"teacher_tensor_parallel_degree={degree} {problem}")
    student = student or launch.parsed.offline.model_config_name_or_path
    own = check_fit(student, tokenizer, max_length=launch.parsed.data.max_length).vocab_size
    _check_vocabularies(launch, config.vocab_size, own)
    frozen = cache(partial(frozen_model, "the teacher", folder, world, launch.hashed))
    return ReferenceSource(folder, frozen, config.vocab_size)


def _check_vocabularies(launch: Launch, taught: int, own: int) -> None:
    """Refuse a teacher of ``taught`` ids whose head cannot be cut where that of the student, of ``own`` ids, is."""
    shared = launch.topology.layout.tensor
    if shared == 1 or taught == own:
        return
    if launch.parsed.teacher.own_degree(launch.topology.world_size) is None:
        cure = "Give teacher_tensor_parallel_degree, so that it is cut for itself"
    elif taught > even_cut(own, shared, shared - 1)[0]:
        return
    else:
        cure = f"The student's ids of the last of {shared} processes are then padding alone"
    raise ArgumentError(
        f"{KEY}={launch.parsed.teacher.teacher_model_name_or_path} has a vocabulary padded to {taught} ids, the "
        f"student to {own}: with tensor_parallel_degree above 1 both must be cut alike. {cure}; or use a degree of 1 "
        "(sharding and pipeline stages are possible), or pad the smaller one's embeddings"
    )


def open_teacher(launch: Launch, source: ReferenceSource, tokenizer: Tokenizer, student: CausalLM) -> Teacher:
    """Return the teacher of ``student``, placed in the run's layout or in its own."""
    offload = launch.parsed.teacher.teacher_offload or "freeze_model" in launch.parsed.parallel.offloaded
    loss, world = launch.parsed.loss, launch.topology.world
    kind, degree = DivergenceKind(loss.beta, loss.temperature), launch.parsed.teacher.own_degree(world.size)
    if degree is None:
        model = freeze(POLICY.load(launch, source.folder, tokenizer, is_trained=False))
        runner = place_frozen("teacher", model, launch.topology, offload=offload)
        return Teacher(runner, kind, is_offloaded=offload)
    teams = TeacherTeams(launch.topology, degree)
    log.info(f"the teacher has a layout of its own: {counted(world.size // degree, 'team')} of {degree}")
    placement = Placement(tensor=teams.team)
    model = freeze(load_causal_lm(source.folder, tokenizer=tokenizer, dtype=launch.dtype, placement=placement))
    head = teams.head_of(model, student)
    runner = place_frozen("teacher", model, Topology(device=launch.topology.device), offload=offload)
    runner = TeamRunner(runner, teams, world)
    return Teacher(runner, kind, is_offloaded=offload, teams=teams, head=head)
