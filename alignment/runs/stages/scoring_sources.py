"""Reward sources outside of a run: they score texts, whoever wrote them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from alignment.arguments.rewards.entries import RewardEntry
from alignment.data.comparison import PairQuestion
from alignment.data.encode import Encoder
from alignment.errors import ArgumentError, RewardError, TooLongError
from alignment.models.decoder.score_model import ScoreModel
from alignment.models.folders.attribute_heads import StoredHead
from alignment.models.folders.hub import load_causal_lm, load_score_model, resolve_model_folder, working_dtype
from alignment.parallel.build_runner import build_runner
from alignment.parallel.topology import Topology
from alignment.records import Rollout
from alignment.rollout.rewards.combined import CombinedScorer, RewardSource
from alignment.rollout.rewards.pairwise_scores import PairwiseReader, PairwiseScorer
from alignment.rollout.rewards.retokenize import BeforePadding, Retokenized
from alignment.rollout.rewards.reward_service import HttpReward
from alignment.rollout.rewards.scorers import FailurePolicy, ModelScorer, Scorer, TextScorer
from alignment.rollout.rewards.text_batch import TextBatch
from alignment.rollout.rewards.user_code import load_function, text_function
from alignment.runs.on_policy.reward_models import check_kind
from alignment.runs.stages.policy import Voice
from alignment.runs.stages.score_arguments import SourceArguments

ChangeOfFormat = Callable[[Any, str], Any]


class Texts:
    """Stands for the tokenizer of whoever wrote the answers: the only token of a response is its number."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def rollout(
        self, prompts: list[Any], responses: list[str], labels: list[str | None], groups: np.ndarray, reasons: list[str]
    ) -> Rollout:
        """Return the rollout of ``responses``; rows of one of ``groups`` [N] answer the same prompt."""
        self._texts = responses
        return Rollout(
            prompts=tuple(np.empty(0, np.int64) for _ in prompts),
            responses=tuple(np.array([number]) for number in range(len(responses))),
            finish_reasons=tuple(reasons),
            group_ids=groups,
            inputs=tuple(prompts),
            labels=tuple(labels),
        )

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Return the response."""
        return self._texts[ids[0]]


class Reformatted:
    """Rows of a reward model that reads another form: what the user's function makes of prompt and answer."""

    def __init__(self, change: ChangeOfFormat, texts: Texts, encoder: Encoder, max_tokens: int) -> None:
        self._change = change
        self._texts = texts
        self._encoder = encoder
        self._max_tokens = max_tokens

    def __call__(self, rollout: Rollout) -> list[np.ndarray]:
        """Return the model's ids for each row."""
        return [self._split(*row)[0] for row in self._rows(rollout)]

    def starts(self, rollout: Rollout) -> list[int]:
        """Return the position of the first token of each answer; 0 where the function returned one text."""
        return [self._split(*row)[1] for row in self._rows(rollout)]

    def _rows(self, rollout: Rollout) -> Any:
        texts = (self._texts.decode(ids.tolist()) for ids in rollout.responses)
        return zip(rollout.inputs, texts, rollout.finish_reasons, strict=True)

    def _split(self, prompt: Any, response: str, reason: str) -> tuple[np.ndarray, int]:
        made = self._change(prompt, response)
        if isinstance(made, str):
            ids, start = self._encoder.encode_text(made), 0
        elif isinstance(made, (tuple, list)) and len(made) == 2 and isinstance(made[1], str):
            asked = self._encoder.encode_prompt(made[0])
            answer = self._encoder.encode_answer(asked, made[1]).ids
            ids, start = asked.ids + (answer if reason == "stop" else answer[:-1]), len(asked.ids)
        else:
            raise RewardError(f"change_of_format returned {made!r:.80}; expected a text, or (prompt, response)")
        if len(ids) > self._max_tokens:
            raise TooLongError(f"an answer has {len(ids)} tokens with its prompt; the model reads {self._max_tokens}")
        return np.asarray(ids, np.int64), start


class SourceBuilder:
    """Builds the scorers of ``entries``."""

    def __init__(self, given: SourceArguments, texts: Texts, *, device: str, base_dir: Path) -> None:
        self._given = given
        self._texts = texts
        self._device = device
        self._base = base_dir

    def build(self) -> CombinedScorer:
        """Return all sources; the raw scores of each are kept."""
        return CombinedScorer([self._source(entry) for entry in self._given.entries])

    def _source(self, entry: RewardEntry) -> RewardSource:
        scorer, model = _BUILDERS[entry.kind](self, entry)
        has_statistics = model is not None and model.has_statistics
        if entry.normalize and not has_statistics:
            raise ArgumentError(
                f"reward_sources: {entry.log_as} has no saved statistics to normalise by; leave normalize out "
                "(alignment select --method conditional --normalize_reward true standardises over all answers)"
            )
        normalizes = has_statistics and (model.options.do_normalize if entry.normalize is None else entry.normalize)
        normalize = model.normalize_scores if normalizes else None
        return RewardSource(log_as=entry.log_as, scorer=scorer, factor=entry.factor, normalize=normalize)

    def _model(self, entry: RewardEntry) -> tuple[Scorer, ScoreModel | None]:
        folder = model_folder(entry)
        check_kind(entry, str(folder))
        voice, given = Voice(folder, entry.template), self._given
        longest = voice.config.longest_sequence
        name = f"reward model {entry.log_as}"
        sequences: Any = Retokenized(self._texts, voice.encoder, max_tokens=longest, name=name)
        if given.change_of_format is not None:
            change = load_function(given.change_of_format, self._base, key="change_of_format")
            sequences = Reformatted(change, self._texts, voice.encoder, longest)
        if given.score_before_padding:
            if voice.config.pad_token_id is None:
                raise ArgumentError(f"score_before_padding=true, but config.json in {folder} names no pad_token_id")
            sequences = BeforePadding(sequences, voice.config.pad_token_id)
        head = StoredHead(given.value_head_prefix, given.reward_attribute_weights)
        model = load_score_model(folder, dtype=working_dtype(folder, self._device), stored_head=head)
        model.eval()
        starts = sequences.starts if model.options.needs_starts else None
        runner = build_runner(model, Topology(device=self._device))
        rows = self._rows_of(entry)
        return ModelScorer(runner, sequences, rows_per_batch=rows, starts=starts, name=entry.log_as), model

    def _pairwise(self, entry: RewardEntry) -> tuple[Scorer, ScoreModel | None]:
        folder = model_folder(entry)
        voice = Voice(folder, entry.template)
        question = PairQuestion.from_record({**(voice.config.comparison or {}), **entry.options})
        reader = PairwiseReader(
            question, self._texts, voice.tokenizer, voice.encoder, max_tokens=voice.config.longest_sequence
        )
        model = load_causal_lm(folder, dtype=working_dtype(folder, self._device))
        model.eval()
        runner = build_runner(model, Topology(device=self._device))
        return PairwiseScorer(runner, reader, rows_per_batch=self._rows_of(entry)), None

    def _function(self, entry: RewardEntry) -> tuple[Scorer, ScoreModel | None]:
        return self._text(text_function(entry.name, self._base, entry.options), f"reward function {entry.name}")

    def _service(self, entry: RewardEntry) -> tuple[Scorer, ScoreModel | None]:
        call = HttpReward(entry.name, timeout_seconds=self._given.reward_timeout)
        return self._text(call, f"reward service {entry.name}")

    def _text(self, call: Callable[[TextBatch], Any], name: str) -> tuple[Scorer, ScoreModel | None]:
        policy = FailurePolicy(retries=self._given.reward_retries)
        return TextScorer(call, self._texts, name=name, policy=policy), None

    def _rows_of(self, entry: RewardEntry) -> int:
        return entry.batch_size if entry.batch_size > 0 else self._given.per_device_reward_batch_size


_BUILDERS: Mapping[str, Callable[[SourceBuilder, RewardEntry], tuple[Scorer, ScoreModel | None]]] = MappingProxyType(
    {
        "model": SourceBuilder._model,
        "cost": SourceBuilder._model,
        "pairwise": SourceBuilder._pairwise,
        "function": SourceBuilder._function,
        "service": SourceBuilder._service,
    }
)
"""Builds the scorer of a source, with its score model if it is one, by kind (``arguments.rewards.entries.KINDS``)."""


def model_folder(entry: RewardEntry) -> Path:
    """Return the folder of a source that is a model."""
    return resolve_model_folder(entry.name, parts=("reward",))
