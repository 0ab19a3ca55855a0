"""Arguments of the reward source: a model, a Python function or an HTTP service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from alignment.arguments.keys.training import NO_EVALUATION
from alignment.arguments.rewards.entries import RewardEntry, model_kind, read_entries, with_weights
from alignment.fields import Case, Situation, argument, where


def _sources(situation: Situation) -> tuple[RewardEntry, ...]:
    written = [situation.values.get(key) or "" for key in ("reward_sources", "eval_reward")]
    return tuple(entry for text in written if text.startswith("[") for entry in read_entries(text))


def _lacks_model(value: Any, s: Situation) -> bool:
    named = s.values.get("reward_model_name_or_path") or any(entry.is_model for entry in _sources(s))
    return value not in (None, 0) and not named


def _lacks_head(value: Any, s: Situation) -> bool:
    model = s.values.get("reward_model_name_or_path")
    kinds = {entry.kind for entry in _sources(s) if entry.is_model} | ({model_kind(model)} if model else set())
    return value not in (None, 0) and not kinds - {"pairwise"}


def _asks_nobody(value: Any, s: Situation) -> bool:
    is_asked = s.values.get("use_rm_server") or any(entry.kind == "service" for entry in _sources(s))
    return value not in (None, 0) and not is_asked


def _calls_nobody(value: Any, s: Situation) -> bool:
    is_called = any(s.values.get(key) for key in ("reward_function", "use_rm_server"))
    return value not in (None, 0) and not is_called and all(entry.is_model for entry in _sources(s))


_NOT_CALLED = Case(
    _calls_nobody,
    "rewards come from models, which are not called over a network and not retried",
    "no reward source or second judge (eval_reward) is a function or a service",
)
_NO_MODEL = Case(_lacks_model, "there is no reward model")
_NO_HEAD = Case(_lacks_head, "there is no reward model with a score head")
_NO_SERVICE = Case(_asks_nobody, "no reward source is a service")


@dataclass(frozen=True, kw_only=True)
class RewardSourceArguments:
    """Exactly one of reward_model_name_or_path, reward_function, use_rm_server and reward_sources."""

    reward_model_name_or_path: str | None = argument(None, path="model")
    """Folder or hub name of the reward model, which scores a response or (a pairwise model) compares two."""
    reward_sources: str | None = argument(None, path="rewards", aliases=("reward_pretrain", "reward_funcs"))
    """Several sources, whose weighted sum is the reward: names separated by commas, or a list of names and of objects
    {"name", "weight", "kind", "normalize", "template", "batch_size", "options", "log_as"}. A name is a model, a
    function or the address of a service; kind "cost" is a model whose score is subtracted, kind "pairwise" one that
    compares the responses to a prompt. See docs/how-to/own_reward.md.
    """
    reward_weights: tuple[float, ...] | None = argument(
        None, keeps_repeats=True, inert_when=where("reward_sources", None, why="there is one source of rewards")
    )
    """The weight of each of reward_sources, in their order; null: those of the objects, 1 by default."""
    eval_reward: str | None = argument(None, path="rewards", inert_when=NO_EVALUATION)
    """Second judges, written as reward_sources are: they score the answers of each evaluation, reported as eval/NAME,
    and are never trained on (docs/how-to/reward_hacking.md). metric_for_best_model may name one.
    """
    value_head_prefix: str | None = None
    """Name of the score head in the files of the reward model and the critic, if it is not a usual one."""
    reward_attribute_weights: tuple[float, ...] | None = argument(None, keeps_repeats=True, inert_when=_NO_HEAD)
    """For a reward model with several scores (attributes): the weight of each; their weighted sum is the reward."""
    score_before_padding: bool = argument(False, inert_when=_NO_HEAD)
    """Read scores before the reward model's pad_token_id, as transformers does (models trained with pad = eos)."""
    reward_function: str | None = argument(None, path="function")
    """A Python function as package.module:function or file.py:function."""
    use_rm_server: bool = False
    """Ask the HTTP service at reward_server."""
    reward_server: str | None = argument(None, inert_when=where("use_rm_server", False))
    """Address of the service, http://host:port/path."""
    reward_timeout: float = argument(60.0, above=0, inert_when=_NO_SERVICE)
    """Seconds allowed for a request to the service."""
    reward_retries: int = argument(3, minimum=0, inert_when=_NOT_CALLED)
    """Retries after a failure that may be temporary: connection, timeout, status 500 and above."""
    on_reward_failure: Literal["stop", "mask_group"] = argument("stop", inert_when=_NOT_CALLED)
    """After the last retry: end the run, or exclude all responses to that prompt from the losses; never a 0. Of a
    second judge (eval_reward): end the run, or leave the answer out of its mean.
    """
    normalize_reward: bool = False
    """Subtract the mean and divide by the standard deviation of rewards; of reward_sources, each source's own."""
    per_device_reward_batch_size: int = argument(-1, minimum=-1, excluded=(0,), inert_when=_NO_MODEL)
    """Rows per forward pass of the reward model; -1: per_device_train_batch_size."""

    @property
    def entries(self) -> tuple[RewardEntry, ...]:
        """The sources of ``reward_sources`` with their weights; empty if there is one source, named by another key."""
        return with_weights(read_entries(self.reward_sources), self.reward_weights)

    @property
    def model_entry(self) -> RewardEntry | None:
        """The reward model as an entry, if there is one source and it is a model."""
        name = self.reward_model_name_or_path
        return RewardEntry(name=name, kind=model_kind(name), log_as="reward") if name else None

    @property
    def pairwise(self) -> tuple[RewardEntry, ...]:
        """The sources that compare the responses to a prompt."""
        return tuple(entry for entry in (*self.entries, self.model_entry) if entry and entry.kind == "pairwise")

    @property
    def judges(self) -> tuple[RewardEntry, ...]:
        """The second judges of evaluations."""
        return read_entries(self.eval_reward)

    @property
    def first_model(self) -> str | None:
        """The reward model, or the first of several, which a critic starts from by default; None: there is none."""
        named = [entry.name for entry in self.entries if entry.kind == "model"]
        return self.reward_model_name_or_path or next(iter(named), None)
