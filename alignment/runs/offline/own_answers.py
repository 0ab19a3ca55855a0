"""Answers that the student samples in place of those of the data, for a share of the updates (GKD, on-policy)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignment.data.encoded.store import Sample
from alignment.data.encoded.supervised import IGNORE_INDEX
from alignment.errors import ArgumentError
from alignment.generation.engine import Engine, GenerationOptions
from alignment.loops.rollout_engine import RolloutEngine
from alignment.metrics import Metric
from alignment.models.folders.sequence_ends import sequence_ends
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.runner import ModelRunner
from alignment.records import Completion, Rollout, pad_right
from alignment.rollout.forward import measure_logprobs
from alignment.rollout.gate import LogprobGate
from alignment.runs.launch import Launch
from alignment.runs.on_policy.engines import EngineRows, open_engine
from alignment.training.learner import Learner

_DRAW = 0x6B64
"""Keeps the draw of updates apart from other random numbers of the same seed."""


@dataclass(kw_only=True)
class OwnAnswers:
    """Replaces the answers of a whole update, or of none, as (seed, number of the update) says.

    So a resumed run draws what the unbroken one would, in every layout and for every size of micro-batches.
    """

    share: float
    """Of the updates."""
    seed: int
    rows: int
    """Rows of an update, at most."""
    options: GenerationOptions
    make_engine: Callable[[Learner], Engine]
    gate: LogprobGate
    rows_at_once: int
    """Rows per forward pass of the trainer's log-probs, which the gate compares with the engine's."""
    _engine: RolloutEngine | None = field(default=None, init=False)

    def __call__(
        self, samples: list[Sample], learner: Learner, runner: ModelRunner
    ) -> tuple[list[Sample], dict[str, Metric]]:
        """Return the samples to train on, and the gate's metrics; all processes call it together, with the same ones.

        ``runner`` runs the learner's model without gradients.
        """
        update = learner.num_updates
        if np.random.default_rng([self.seed, update, _DRAW]).random() >= self.share:
            return samples, {}
        if self._engine is None:
            self._engine = RolloutEngine(engine=self.make_engine(learner), policy=learner)
        prompts = [prompt_of(sample) for sample in samples]
        numbers = range(update * self.rows, update * self.rows + len(prompts))
        with self._engine.ready(update):
            found = self._engine.engine.generate(prompts, self.options, seed=self.seed, sequence_ids=numbers)
        metrics = self._check(prompts, found, update, runner)
        return [answered(prompt, answer.token_ids) for prompt, answer in zip(prompts, found, strict=True)], metrics

    def _check(
        self, prompts: list[np.ndarray], found: list[Completion], update: int, runner: ModelRunner
    ) -> dict[str, Metric]:
        """Return the gap between the log-probs of engine and trainer; see ``LogprobGate.check``."""
        width = max(len(answer.token_ids) for answer in found)
        rollout = Rollout(
            prompts=tuple(prompts),
            responses=tuple(answer.token_ids for answer in found),
            finish_reasons=tuple(answer.finish_reason for answer in found),
            group_ids=np.arange(len(prompts)),
            rollout_logprobs=pad_right([answer.logprobs for answer in found], width, 0.0),
            policy_version=update,
        )
        logprobs, _ = measure_logprobs(
            runner, rollout, rows_per_batch=self.rows_at_once, temperature=self.options.temperature
        )
        return self.gate.check(rollout.with_fields(old_logprobs=logprobs))[1]


def prompt_of(sample: Sample) -> np.ndarray:
    """Return the tokens before the first target of a supervised sample: at least one."""
    return sample["input_ids"][: max(1, int(np.argmax(sample["labels"] != IGNORE_INDEX)))]


def answered(prompt: np.ndarray, answer: np.ndarray) -> Sample:
    """Return the supervised sample whose targets are the tokens of ``answer``."""
    ids = np.concatenate([prompt, answer])
    labels = ids.copy()
    labels[: len(prompt)] = IGNORE_INDEX
    return {"input_ids": ids, "labels": labels}


def open_own_answers(launch: Launch, model: Any, tokenizer: Tokenizer, rows: int, num_ids: int) -> OwnAnswers | None:
    """Return what samples from ``model``, the student; None if nothing is sampled.

    ``rows``: those of an update. ``num_ids``: ids of the teacher, which reads the answers too.
    """
    parsed = launch.parsed
    if not parsed.loss.lmbda:
        return None
    length = parsed.data.max_length
    options = GenerationOptions(
        max_new_tokens=parsed.teacher.max_dec_len or length - 1,
        min_new_tokens=1,
        max_total_tokens=length,
        temperature=parsed.loss.temperature,
        stop_token_ids=sequence_ends(model.config, tokenizer),
    )
    if model.config.unanswerable(options.max_new_tokens, length):
        raise ArgumentError(
            f"lmbda={parsed.loss.lmbda}: the student's answers must not cross original_max_position_embeddings="
            f"{model.config.angle_limit} of longrope; give max_length={model.config.angle_limit} or less (now "
            f"{length}), or lmbda=0"
        )
    at_once = parsed.training.per_device_eval_batch_size
    engine_rows = EngineRows(total=rows, at_once=at_once, usable=min(num_ids, model.config.vocab_size))
    return OwnAnswers(
        share=parsed.loss.lmbda,
        seed=parsed.training.seed,
        rows=rows,
        options=options,
        make_engine=lambda learner: open_engine(launch, learner, engine_rows),
        gate=LogprobGate(limit=parsed.engine.logprob_gap_limit, action=parsed.engine.on_logprob_gap, weight_cap=1.0),
        rows_at_once=parsed.training.per_device_train_batch_size,
    )
