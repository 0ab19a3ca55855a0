"""The frozen teacher of a distillation: its hidden states before each target stay in the process that computed them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import numpy as np
import paddle
from paddle import Tensor

from alignment.errors import ArgumentError, diverged
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.logprobs import predicting_hidden
from alignment.models.decoder.split_divergence import DivergenceKind, TeacherTokens, divergence_logprobs
from alignment.models.decoder.split_vocabulary import VocabularyShare
from alignment.models.folders.hub import check_fit, resolve_model_folder
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.ops.head_product import HeadProduct
from alignment.parallel.runner import ModelRunner
from alignment.records import TokenBatch
from alignment.runs.frozen import frozen_model
from alignment.runs.launch import Launch
from alignment.runs.models import check_layout, check_same_tokens, freeze
from alignment.runs.offline.models import POLICY
from alignment.runs.offline.reference import Reference, ReferenceSource
from alignment.runs.placed import place_frozen

KEY = "teacher_model_name_or_path"


class Teacher:
    """Gives the divergence of a student from the frozen model of ``runner`` at the target tokens.

    A process runs the same micro-batches with both models, and its last layers have the same ids of the vocabulary: so
    hidden states need not be sent, and logits are made piece by piece beside those of the student.
    """

    def __init__(self, runner: ModelRunner, kind: DivergenceKind, *, is_offloaded: bool = False) -> None:
        """``is_offloaded``: the weights are on the device only while the runner works."""
        self._runner = runner
        self._kind = kind
        self._is_offloaded = is_offloaded
        self._head: HeadProduct | None = None
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

    def read(self, model: CausalLM, batch: TokenBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the student's log-probs of the targets, the divergences, and the teacher's log-probs, [T] each."""
        _, states = self._kept[id(batch)]
        group = model.placement.tensor
        largest = max(model.config.vocab_size, self._runner.model.config.vocab_size)
        return divergence_logprobs(
            predicting_hidden(model, batch),
            HeadProduct(*model.head()),
            paddle.to_tensor(batch.target_ids),
            teacher=TeacherTokens(states, self._head, -(-largest // group.size)),
            share=VocabularyShare(group, model.first_token),
            kind=self._kind,
        )

    def as_reference(self) -> Reference:
        """Return it as what a task compares the student with."""
        return Reference(self.prepare, read=self.read, stage="teacher")

    def _keep(self, model: CausalLM, batch: TokenBatch) -> Tensor:
        states = predicting_hidden(model, batch).detach()
        self._kept[id(batch)] = batch, states
        if self._head is None:
            weight, transposed = model.head()
            self._head = HeadProduct(weight.clone() if self._is_offloaded else weight, transposed)
        return states.astype("float32").sum()


def find_teacher(launch: Launch, student: str | None, tokenizer: Tokenizer) -> ReferenceSource:
    """Return the teacher named by the arguments; ArgumentError if it cannot teach the model in ``student`` (None: one
    with random weights). No weights are read.
    """
    named, world = launch.parsed.teacher.teacher_model_name_or_path, launch.topology.world
    folder = str(resolve_model_folder(named, parts=POLICY.parts))
    check_same_tokens(f"{KEY}={named}", folder, tokenizer, reader="the student")
    config = check_fit(folder, tokenizer, max_length=launch.parsed.data.max_length)
    check_layout(launch, config, folder)
    student = student or launch.parsed.offline.model_config_name_or_path
    own = check_fit(student, tokenizer, max_length=launch.parsed.data.max_length).vocab_size
    if launch.topology.layout.tensor > 1 and config.vocab_size != own:
        raise ArgumentError(
            f"{KEY}={named} has a vocabulary padded to {config.vocab_size} ids, the student to {own}: "
            "with tensor_parallel_degree above 1 both must be cut alike. Use a degree of 1 (sharding and pipeline "
            "stages are possible), or pad the smaller one's embeddings"
        )
    frozen = cache(partial(frozen_model, "the teacher", folder, world, launch.hashed))
    return ReferenceSource(folder, frozen, config.vocab_size)


def open_teacher(launch: Launch, source: ReferenceSource, tokenizer: Tokenizer) -> Teacher:
    """Return the teacher, placed in the run's layout."""
    offload = launch.parsed.teacher.teacher_offload or "freeze_model" in launch.parsed.parallel.offloaded
    model = freeze(POLICY.load(launch, source.folder, tokenizer, is_trained=False))
    runner = place_frozen("teacher", model, launch.topology, offload=offload)
    loss = launch.parsed.loss
    return Teacher(runner, DivergenceKind(loss.beta, loss.temperature), is_offloaded=offload)
