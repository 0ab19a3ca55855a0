"""Map tensor names in model folders to parameter names, and say which tensors are stored transposed.

Parameters have Hugging Face's names. In memory Linear weights are [in, out], as Paddle multiplies them; in files they
are [out, in]. All other tensors are the same in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from alignment.architecture.adapter import FACTORS
from alignment.architecture.families import FAMILIES, GATING, OUTSIDE, SCORE
from alignment.errors import ModelFolderError

MATRICES = tuple(
    dict.fromkeys(
        f"{weight.name.rpartition('.')[2]}.weight"
        for weight in (*OUTSIDE, *(weight for name in FAMILIES for weight in FAMILIES[name].layer))
        if weight.kind == "matrix"
    )
) + tuple(f".{factor}.weight" for factor in FACTORS)
"""Name endings of tensors that files store transposed; embeddings are not."""

SCORE_ALIASES = (
    "score_head.", "value_head.", "v_head.summary.", "v_head.", "reward_head.", "rm_head.", "regression_head.",
    "classifier.",
)  # fmt: skip
"""Prefixes of the score head in other suites."""

WRAPPERS = ("base_model.model.", "pretrained_model.")
"""Prefixes left by saving a model inside a wrapper."""

FAMILY_PREFIXES = tuple(f"{name}." for name in FAMILIES)
"""What PaddleNLP writes instead of ``model.``."""

IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.bias")
"""Buffers in old files that are computed here."""

NORMALIZER_PREFIX = "normalizer."
"""safe-rlhf saves the score statistics as tensors; here they are in config.json."""


def is_transposed(name: str) -> bool:
    """Return whether files hold the tensor ``name`` transposed."""
    return name.endswith(MATRICES) or (name.startswith(GATING) and name.endswith(".weight"))


def canonical_name(stored: str, head_prefix: str | None = None) -> str | None:
    """Return the parameter's name for the tensor ``stored`` of a file; None if the model does not need it.

    ``head_prefix`` is the score head's name, replacing those known here.
    """
    if stored.endswith(IGNORED_SUFFIXES):
        return None
    name = stored
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    if name.startswith(FAMILY_PREFIXES):
        name = "model." + name.partition(".")[2]
    for alias in SCORE_ALIASES if head_prefix is None else (head_prefix.rstrip(".") + ".",):
        if name.startswith(alias):
            return "score." + name[len(alias) :]
    if name.startswith(("embed_tokens.", "layers.", "norm.")):
        return f"model.{name}"
    return name


class Match(NamedTuple):
    """The difference between a folder's tensors and a model's parameters."""

    missing: list[str]
    """Parameters without a tensor."""
    unknown: list[str]
    """Tensors without a parameter."""


def match_names(parameters: Iterable[str], tensors: Iterable[str]) -> Match:
    """Return what differs between canonical names, sorted."""
    wanted, found = set(parameters), set(tensors)
    return Match(sorted(wanted - found), sorted(found - wanted))


def refuse_mismatch(match: Match, *, folder: str, heads: Sequence[str] = ()) -> None:
    """Raise one ModelFolderError that names all missing and unknown tensors, if there are any.

    ``heads`` are tensors that could be the missing score head.
    """
    problems = []
    for word, names in (("missing", match.missing), ("unknown", match.unknown)):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            problems.append(f"{len(names)} {word} tensor(s): {shown}")
    if problems:
        raise ModelFolderError(
            f"{folder}: the weights do not fit the model of its config.json: {'; '.join(problems)}"
            f"{_advice(match, heads)}"
        )


def _advice(match: Match, heads: Sequence[str]) -> str:
    """Return what to do if a language model was given instead of a score model, or the other way round."""
    if SCORE in match.missing and heads:
        shown = ", ".join(name.removesuffix(".weight") for name in heads[:5])
        return f". If its score head has another name, give it as value_head_prefix (candidates: {shown})"
    if SCORE in match.missing:
        return (
            ". It has no score head: train a reward model from it with alignment/rm/run_reward.py. A language model "
            'that compares two answers has none, and on-policy runs use it with "kind": "pairwise" in reward_sources'
        )
    if SCORE in match.unknown:
        return ". It is a score model (reward model or critic) where a language model is needed"
    return ""
