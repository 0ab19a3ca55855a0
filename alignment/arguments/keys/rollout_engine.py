"""Arguments of the engine that samples what a run trains on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignment.fields import Case, argument, where

NO_SAMPLING = where("lmbda", 0, why="lmbda is 0: no answer is sampled")
_NO_ENGINE = (where("use_fusemt", False), NO_SAMPLING)
_NO_RATIO = Case(
    lambda value, s: value in ("correct", "recompute") and "lmbda" in s.values,
    "distillation has no ratio of probabilities to correct (allowed: warn, stop)",
    "it is correct or recompute, and the trainer is kd",
)


@dataclass(frozen=True, kw_only=True)
class RolloutEngineArguments:
    """The engine, what it holds its weights and cache in, and how far it may be from the trainer."""

    use_fusemt: bool = argument(True, inert_when=NO_SAMPLING)
    """Sample with the fused engine where it can run; else with the eager one. The run says which."""
    rollout_weight_type: Literal["float32", "bfloat16", "int8"] | None = argument(None, inert_when=_NO_ENGINE)
    """What the fused engine holds weights in; null: the dtype of the trained weights. A smaller type takes less memory,
    and less time where that limits the speed; set on_logprob_gap accordingly."""
    rollout_kv_type: Literal["float32", "bfloat16"] | None = argument(None, inert_when=_NO_ENGINE)
    """What the fused engine holds keys and values in; null: what the policy is trained in."""
    rollout_kv_memory: str | None = argument(None, inert_when=_NO_ENGINE)
    """Memory for keys and values in one process, for example 2GiB; null: enough for all sequences at full length."""
    speculative_tokens: Literal["auto"] | int = argument(0, minimum=0, inert_when=_NO_ENGINE)
    """The most tokens that the fused engine drafts for a sequence and computes in the same pass; 0: none; auto: as many
    as pay by the number of sequences still running and the share of drafts that were right. A number joins passes of
    few rows only. Drafts never change a token or a log-prob. Not on a GPU, nor with a repetition_penalty."""
    speculative_method: Literal["ngram", "previous"] = argument(
        "ngram", inert_when=(*_NO_ENGINE, where("speculative_tokens", 0))
    )
    """Where drafts come from. ngram: what followed the last two or three tokens earlier in the sequence; previous: what
    followed them in the last answers to the same prompt, or else in the sequence."""
    logprob_gap_limit: float = argument(0.05, above=0, inert_when=NO_SAMPLING)
    """Limit, in nats, on the gap between the engine's and the trainer's log-probs of 99 % of a rollout's tokens."""
    on_logprob_gap: Literal["warn", "correct", "recompute", "stop"] = argument(
        "warn", inert_when=NO_SAMPLING, refused_when=_NO_RATIO
    )
    """What to do above that limit. warn: log a warning; stop: end the run; recompute: use the trainer's log-probs as
    the old log-probs of that rollout, and the engine's within the limit (the other values leave this to
    use_rollout_logprobs);
    correct: log a warning, and weight the policy loss of every rollout, above the limit or not, per token by the
    trainer's / the engine's probability, at most importance_weight_cap."""
