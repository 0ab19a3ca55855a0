"""Arguments of ``alignment score``."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.arguments.groups import Groups
from alignment.arguments.rewards.entries import MODEL_KINDS, RewardEntry, read_entries, with_weights
from alignment.fields import Case, Situation, argument
from alignment.runs.stages.stage_arguments import StageArguments


@dataclass(frozen=True, kw_only=True)
class ScoreArguments(StageArguments):
    """What is scored."""

    answers_file: str = argument(path="file", aliases=("dataset", "dataset_name_or_path"))
    """A file with answers: prompt and responses (as alignment generate writes), or an answer a row: prompt and
    response, or input and output."""
    K: int | None = argument(None, minimum=1)
    """How many answers each row must have; null: as many as it has."""
    answers_per_unit: int = argument(64, minimum=1)
    """Answers that are scored and written together, about."""


def _entries(situation: Situation) -> tuple[RewardEntry, ...]:
    return read_entries(situation.values.get("reward_sources"))


def _no_source(*kinds: str) -> Case:
    """Return the case that no source is of one of ``kinds``."""
    names = " or ".join(kinds)
    return Case(
        lambda value, s: value not in (None, 0) and not any(entry.kind in kinds for entry in _entries(s)),
        f"no source is a {names}",
    )


_NO_SCORE_MODEL = _no_source("model", "cost")
_NO_MODEL = _no_source(*MODEL_KINDS)
_NO_SERVICE = _no_source("service")
_NOT_CALLED = _no_source("function", "service")


@dataclass(frozen=True, kw_only=True)
class SourceArguments:
    """Who scores: the keys of PPO."""

    reward_sources: str = argument(
        path="rewards",
        aliases=("reward_model_name_or_path", "reward_name_or_path", "reward_function", "reward_pretrain", "pretrain"),
    )
    """A reward model, a function (file.py:function) or the address of a service; or several, whose weighted sum is the
    reward, as in PPO. See docs/how-to/own_reward.md."""
    reward_weights: tuple[float, ...] | None = argument(None, keeps_repeats=True)
    """The weight of each of reward_sources, in their order; null: those of the objects, 1 by default."""
    change_of_format: str | None = argument(None, path="function", inert_when=_NO_SCORE_MODEL)
    """A function (prompt, response) -> (prompt, response), or one text, for reward models that read another form:
    models score what it returns, a text as it is, without a template. Pairwise models are not asked so."""
    value_head_prefix: str | None = argument(None, inert_when=_NO_SCORE_MODEL)
    """Name of the score head in the files of the reward models, if it is not a usual one."""
    reward_attribute_weights: tuple[float, ...] | None = argument(None, keeps_repeats=True, inert_when=_NO_SCORE_MODEL)
    """For reward models with several scores (attributes): the weight of each; their weighted sum is the reward."""
    score_before_padding: bool = argument(False, inert_when=_NO_SCORE_MODEL)
    """Read scores before the reward model's pad_token_id, as transformers does (models trained with pad = eos)."""
    per_device_reward_batch_size: int = argument(8, minimum=1, aliases=("micro_batch_size",), inert_when=_NO_MODEL)
    """Rows per forward pass of a reward model."""
    reward_timeout: float = argument(60.0, above=0, inert_when=_NO_SERVICE)
    """Seconds allowed for a request to a service."""
    reward_retries: int = argument(3, minimum=0, inert_when=_NOT_CALLED)
    """Retries after a failure that may be temporary."""

    @property
    def entries(self) -> tuple[RewardEntry, ...]:
        """The sources with their weights."""
        return with_weights(read_entries(self.reward_sources), self.reward_weights)


GROUPS: Groups = {"score": ScoreArguments, "sources": SourceArguments}
