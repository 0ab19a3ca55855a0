"""The weighted sum of the preference losses of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from alignment.algorithms.preference.answers import PairCounts, Pairs, by_side
from alignment.algorithms.preference.losses import LOSSES
from alignment.algorithms.preference.terms import margin_of, mean_lengths
from alignment.fields import show_value

if TYPE_CHECKING:
    from paddle import Tensor


class Combined(NamedTuple):
    """The losses of a micro-batch, divided by the number of pairs of the update."""

    value: Tensor
    """Their weighted sum."""
    parts: dict[str, Tensor]
    """Each by its name, without its weight."""
    gains: Tensor
    """[2n], what the log-probs gained over the reference, in whole or per token as the first loss reads it."""


def combined_loss(
    logps: Tensor, whole: Tensor, *, fields: Mapping[str, Tensor], hyperparameters: Any, counts: PairCounts
) -> Combined:
    """Return the losses named by ``hyperparameters`` on ``logps``, [2n] or in two parts, preferred answers first.

    ``whole`` [2n] are the log-probs of whole answers. ``fields`` has ``reference``, in the shape of ``logps``, if it is
    needed, ``response_mask`` [2n, R], ``margin`` [n] if it is used, and [2n] of each loss that needs a survey.
    """
    weights, parts, read = weights_of(hyperparameters), {}, {}
    logps = gains = weigh_lengths(logps, hyperparameters)
    if reads_reference(hyperparameters):
        gains = logps - weigh_lengths(fields["reference"], hyperparameters)
    lengths, margin = fields["response_mask"].sum(axis=-1), margin_of(fields, hyperparameters)
    for name in weights:
        length = divisor(name, lengths, hyperparameters)
        read[name] = gains / length
        pairs = Pairs(
            logps=by_side(logps / length),
            gains=by_side(read[name]),
            chosen_sums=by_side(whole).chosen,
            counts=counts,
            margin=0.0 if margin is None else margin,
            measured=by_side(fields[name]) if name in fields else None,
        )
        parts[name] = LOSSES[name](pairs, hyperparameters).sum() / counts.pairs
    value = sum(weight * parts[name] for name, weight in weights.items())
    return Combined(value, parts, read[next(iter(weights))])


def divisor(loss: str, lengths: Any, hyperparameters: Any, *, mean: Callable[[Any], Any] = mean_lengths) -> Any:
    """Return what the log-probs of whole answers are divided by for ``loss``: in the shape of ``lengths``, or 1.

    ``mean`` returns the mean length of each pair.
    """
    if reads_tokens(loss, hyperparameters):
        return lengths
    return lengths / mean(lengths) if hyperparameters.normalize_logps else 1


def weigh_lengths(logps: Any, hyperparameters: Any) -> Any:
    """Return log-probs [2n] in which what exceeds the shorter answer of a pair counts ``ld_alpha`` times (LD-DPO).

    ``logps``: tensor or array [2n] of whole answers; with ``ld_alpha`` [2n, 2], see ``splits_answers``.
    """
    return logps[:, 0] + hyperparameters.ld_alpha * logps[:, 1] if splits_answers(hyperparameters) else logps


def whole_answers(logps: Any, hyperparameters: Any) -> Any:
    """Return log-probs [2n] of whole answers; ``logps``: see ``weigh_lengths``."""
    return logps[:, 0] + logps[:, 1] if splits_answers(hyperparameters) else logps


def splits_answers(hyperparameters: Any) -> bool:
    """Tell whether log-probs are read in two parts (see ``PreferenceAlgorithm``)."""
    return hyperparameters.ld_alpha is not None


def weights_of(hyperparameters: Any) -> dict[str, float]:
    """Return the weight of each loss, in order."""
    weights = (1.0,) if hyperparameters.loss_weights is None else hyperparameters.loss_weights
    return dict(zip(hyperparameters.loss_type, weights, strict=True))


def reads_tokens(loss: str, hyperparameters: Any) -> bool:
    """Tell whether ``loss`` compares log-probs per token."""
    asked = hyperparameters.average_logps
    return LOSSES[loss].is_per_token if asked is None else asked


def reads_reference(hyperparameters: Any) -> bool:
    """Tell whether a loss reads the reference's log-probs."""
    return not hyperparameters.reference_free and any(
        LOSSES[name].needs_reference for name in hyperparameters.loss_type
    )


def check_losses(v: Any) -> Iterator[str]:
    """Check (see ``arguments.parser.Check``) that every loss is named once, and has what it needs."""
    names, weights = v.loss_type, v.loss_weights
    said = f"loss_type={show_value(names)}"
    if len(set(names)) < max(1, len(names)):
        yield f"{said} must name one loss, or several different ones"
    elif weights is None and len(names) > 1:
        yield f"{said} needs a weight for each loss, for example loss_weights={show_value((1.0,) * len(names))}"
    elif weights is not None and len(weights) != len(names):
        yield f"loss_weights={show_value(weights)} must have one weight for each loss of {said}"
    if "exo_pair" in names and v.label_smoothing == 0:
        yield "loss_type=exo_pair needs label_smoothing above 0 (for example 0.001): it takes its logarithm"


def check_reference(v: Any) -> Iterator[str]:
    """Check that nothing is said of a reference that no loss reads."""
    if any(LOSSES[name].needs_reference for name in v.loss_type):
        return
    for key in (
        "ref_model_name_or_path",
        "precompute_ref_logprobs",
        "ref_model_update_steps",
        "sync_ref_model",
        "ref_offload",
        "reference_from_policy",
    ):
        if getattr(v, key) not in (None, False, -1, "auto"):
            given = f"{key}={show_value(getattr(v, key))}"
            yield f"{given} is refused: loss_type={show_value(v.loss_type)} reads no reference; leave the key out"


def check_lengths(v: Any) -> Iterator[str]:
    """Check that the reference's log-probs are those of the parts that are compared."""
    if v.ld_alpha is not None and v.precompute_ref_logprobs:
        yield (
            f"precompute_ref_logprobs=true is refused: ld_alpha={v.ld_alpha:g} cuts an answer at the length of the "
            "other one, and kept log-probs are of whole answers; leave one of them out"
        )


def check_cross_entropy(v: Any) -> Iterator[str]:
    """Check that the cross-entropy of the preferred answers is not added twice."""
    contained = [name for name in v.loss_type if LOSSES[name].has_cross_entropy]
    for key in ("sft_loss_ratio", "nll_loss_coef"):
        if getattr(v, key) and contained:
            yield (
                f"{key}={show_value(getattr(v, key))} is refused: loss_type={contained[0]} contains the cross-entropy "
                "of the preferred answers already; leave the key out"
            )


def check_terms(v: Any) -> Iterator[str]:
    """Check that every loss can honour the margins and lengths that are asked for."""
    said, without = show_value(v.loss_type), [name for name in v.loss_type if not LOSSES[name].has_margin]
    for key in ("margin_scale", "offset_alpha"):
        if getattr(v, key) and without:
            allowed = ", ".join(name for name, loss in LOSSES.items() if loss.has_margin)
            yield f"{key}={show_value(getattr(v, key))} is refused: loss_type={said} has no margin (allowed: {allowed})"
    if v.normalize_logps and any(reads_tokens(name, v) for name in v.loss_type):
        yield f"normalize_logps=true is refused: loss_type={said} compares log-probs per token (average_logps)"


CHECKS = (check_losses, check_reference, check_lengths, check_cross_entropy, check_terms)
"""The checks of a run's losses."""
