"""Arguments of ``alignment score``."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.arguments.groups import Groups
from alignment.arguments.rewards.entries import RewardEntry, read_entries, with_weights
from alignment.fields import argument
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
    change_of_format: str | None = argument(None, path="function")
    """A function (prompt, response) -> (prompt, response), or one text, for reward models that read another form:
    models score what it returns, a text as it is, without a template."""
    value_head_prefix: str | None = None
    """Name of the score head in the files of the reward models, if it is not a usual one."""
    reward_attribute_weights: tuple[float, ...] | None = argument(None, keeps_repeats=True)
    """For reward models with several scores (attributes): the weight of each; their weighted sum is the reward."""
    score_before_padding: bool = False
    """Read scores before the reward model's pad_token_id, as transformers does (models trained with pad = eos)."""
    per_device_reward_batch_size: int = argument(8, minimum=1, aliases=("micro_batch_size",))
    """Rows per forward pass of a reward model."""
    reward_timeout: float = argument(60.0, above=0)
    """Seconds allowed for a request to a service."""
    reward_retries: int = argument(3, minimum=0)
    """Retries after a failure that may be temporary."""

    @property
    def entries(self) -> tuple[RewardEntry, ...]:
        """The sources with their weights."""
        return with_weights(read_entries(self.reward_sources), self.reward_weights)


GROUPS: Groups = {"score": ScoreArguments, "sources": SourceArguments}
