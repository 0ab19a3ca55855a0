"""Names of tensors in model folders, and how they are laid out there.

Inside, parameters have Hugging Face's names; Linear weights are [in, out] as Paddle multiplies them, while files hold
[out, in]. Everything else is stored as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from alignment.errors import ModelFolderError

LINEAR_SUFFIXES = ("_proj.weight", "lm_head.weight", "score.weight")
"""Matrices that files hold transposed; embeddings are not among them."""

SCORE_ALIASES = ("score_head.", "value_head.", "v_head.summary.", "reward_head.")
"""Prefixes under which other suites keep the score head."""

IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.bias")
"""Buffers that old files carry and that are computed here."""

NORMALIZER_PREFIX = "normalizer."
"""safe-rlhf keeps the score statistics as tensors; here they stand in config.json."""


def is_transposed(name: str) -> bool:
    """Return whether files hold the tensor ``name`` transposed."""
    return name.endswith(LINEAR_SUFFIXES)


def canonical_name(stored: str) -> str | None:
    """Return the parameter's name for a tensor of a file; None: it carries nothing the model needs."""
    if stored.endswith(IGNORED_SUFFIXES) or stored.startswith(NORMALIZER_PREFIX):
        return None
    name = stored.removeprefix("base_model.model.")
    for alias in SCORE_ALIASES:
        if name.startswith(alias):
            return "score." + name[len(alias) :]
    if name.startswith(("embed_tokens.", "layers.", "norm.")):
        return f"model.{name}"
    return name


class Match(NamedTuple):
    """How the tensors of a folder meet the parameters of a model."""

    missing: list[str]
    """Parameters without a tensor."""
    unknown: list[str]
    """Tensors without a parameter."""


def match_names(parameters: Iterable[str], tensors: Iterable[str]) -> Match:
    """Compare canonical names."""
    wanted, found = set(parameters), set(tensors)
    return Match(sorted(wanted - found), sorted(found - wanted))


def refuse_mismatch(match: Match, *, folder: str) -> None:
    """Raise one ModelFolderError naming what is missing and unknown; nothing is ever left random in silence."""
    problems = []
    for word, names in (("missing", match.missing), ("unknown", match.unknown)):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            problems.append(f"{len(names)} {word} tensor(s): {shown}")
    if problems:
        raise ModelFolderError(
            f"{folder}: the weights do not fit the model of its config.json: {'; '.join(problems)}{_advice(match)}"
        )


def _advice(match: Match) -> str:
    """Return what to do when a language model stands where a score model is wanted, or the other way round."""
    if "score.weight" in match.missing:
        return ". It has no score head: train a reward model from it with alignment/rm/run_reward.py"
    if "lm_head.weight" in match.missing and "score.weight" in match.unknown:
        return ". It is a score model (reward model or critic) where a language model is needed"
    return ""
