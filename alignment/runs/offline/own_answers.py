"""Answers that the student samples in place of those of the data, for a share of the updates (GKD, on-policy)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alignment.data.encoded.store import Sample
from alignment.data.encoded.supervised import IGNORE_INDEX
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import Engine, GenerationOptions
from alignment.loops.rollout_engine import RolloutEngine
from alignment.models.folders.sequence_ends import sequence_ends
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.rollout.merging_engine import MergingEngine
from alignment.rollout.rollout_weights import RolloutWeights, rollout_parts, rollout_placement
from alignment.rollout.team_engine import TeamEngine
from alignment.runs.launch import Launch
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
    _engine: RolloutEngine | None = field(default=None, init=False)

    def __call__(self, samples: list[Sample], learner: Learner) -> list[Sample]:
        """Return the samples to train on; all processes call it together, with the same ones."""
        update = learner.num_updates
        if np.random.default_rng([self.seed, update, _DRAW]).random() >= self.share:
            return samples
        if self._engine is None:
            self._engine = RolloutEngine(engine=self.make_engine(learner), policy=learner)
        prompts = [prompt_of(sample) for sample in samples]
        numbers = range(update * self.rows, update * self.rows + len(prompts))
        with self._engine.ready(update):
            found = self._engine.engine.generate(prompts, self.options, seed=self.seed, sequence_ids=numbers)
        return [answered(prompt, answer.token_ids) for prompt, answer in zip(prompts, found, strict=True)]


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

    def make_engine(learner: Learner) -> Engine:
        return _build_engine(launch, model, learner, usable=min(num_ids, model.config.vocab_size))

    return OwnAnswers(
        share=parsed.loss.lmbda, seed=parsed.training.seed, rows=rows, options=options, make_engine=make_engine
    )


def _build_engine(launch: Launch, model: Any, learner: Learner, *, usable: int) -> Engine:
    """Return the eager engine in the layout of training; it runs as many rows at once as an evaluation."""
    topology, config = launch.topology, model.config
    placement = rollout_placement(topology, config, eval_mode=None, degree=-1)
    at_once = launch.parsed.training.per_device_eval_batch_size
    options = {"placement": placement.engine, "max_batch_rows": at_once, "usable_vocab_size": usable}
    inner: Engine = EagerEngine(model, **options)
    if model.adapter is not None:
        inner = MergingEngine(inner, model.adapter)
    if topology.world_size == 1:
        return inner
    held, weights = learner.kept_parts(), None
    if held is not None:
        wanted = rollout_parts(config, topology.layout, eval_mode=None, degree=-1)
        if model.adapter is not None:
            wanted = [model.adapter.with_factors(parts) for parts in wanted]
        weights = RolloutWeights(topology, list(held.values()), wanted, dtype=launch.dtype)
    return TeamEngine(inner, placement.replicas, config=config, weights=weights)
