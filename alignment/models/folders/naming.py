"""Names of tensors in model folders, and how they are laid out there.

Inside, parameters have Hugging Face's names; Linear weights are [in, out] as Paddle multiplies them, while files hold
[out, in]. Everything else is stored as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from alignment.architecture.families import FAMILIES, LM_HEAD, OUTSIDE, SCORE
from alignment.errors import ModelFolderError

MATRICES = tuple(
    dict.fromkeys(
        f"{weight.name.rpartition('.')[2]}.weight"
        for weight in (*OUTSIDE, *(weight for name in FAMILIES for weight in FAMILIES[name].layer))
        if weight.kind == "matrix"
    )
)
"""Endings of what files hold transposed; embeddings are not among them."""

SCORE_ALIASES = (
    "score_head.", "value_head.", "v_head.summary.", "v_head.", "reward_head.", "rm_head.", "regression_head.",
    "classifier.",
)  # fmt: skip
"""Prefixes under which other suites keep the score head."""

WRAPPERS = ("base_model.model.", "pretrained_model.")
"""Prefixes of models that were saved inside another one."""

FAMILY_PREFIXES = tuple(f"{name}." for name in FAMILIES)
"""PaddleNLP's word for ``model.``."""

IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "attn.masked_bias", "attn.bias")
"""Buffers that old files carry and that are computed here."""

NORMALIZER_PREFIX = "normalizer."
"""safe-rlhf keeps the score statistics as tensors; here they stand in config.json."""


def is_transposed(name: str) -> bool:
    """Return whether files hold the tensor ``name`` transposed."""
    return name.endswith(MATRICES)


def canonical_name(stored: str, head_prefix: str | None = None) -> str | None:
    """Return the parameter's name for a tensor of a file; None: it carries nothing the model needs.

    ``head_prefix`` is what the score head is called, in place of the names known here.
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
    """How the tensors of a folder meet the parameters of a model."""

    missing: list[str]
    """Parameters without a tensor."""
    unknown: list[str]
    """Tensors without a parameter."""


def match_names(parameters: Iterable[str], tensors: Iterable[str]) -> Match:
    """Compare canonical names."""
    wanted, found = set(parameters), set(tensors)
    return Match(sorted(wanted - found), sorted(found - wanted))


def refuse_mismatch(match: Match, *, folder: str, heads: Sequence[str] = ()) -> None:
    """Raise one ModelFolderError naming what is missing and unknown; nothing is ever left random in silence.

    ``heads`` are tensors that could be the score head that is missing.
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
    """Return what to do when a language model stands where a score model is wanted, or the other way round."""
    if SCORE in match.missing and heads:
        shown = ", ".join(name.removesuffix(".weight") for name in heads[:5])
        return f". If its score head has another name, give it as value_head_prefix (candidates: {shown})"
    if SCORE in match.missing:
        return ". It has no score head: train a reward model from it with alignment/rm/run_reward.py"
    if LM_HEAD in match.missing and SCORE in match.unknown:
        return ". It is a score model (reward model or critic) where a language model is needed"
    return ""
