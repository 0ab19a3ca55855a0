"""Learn from a teacher's distribution besides the data: Hinton et al. 2015, and GKD, Agarwal et al. 2024."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignment.fields import argument, where
from alignment.metrics import Metric
from alignment.records import Loss

if TYPE_CHECKING:
    from paddle import Tensor

_ONLY_DATA = where("kd_coef", 0, why="kd_coef is 0: the loss is the cross-entropy alone")


@dataclass(frozen=True, kw_only=True)
class DistillationHyperparameters:
    """Hyperparameters of distillation."""

    kd_coef: float = argument(0.4, minimum=0, maximum=1)
    """Weight of the divergence from the teacher; the cross-entropy of the data has the rest."""
    beta: float = argument(0.0, minimum=0, maximum=1, inert_when=_ONLY_DATA)
    """Divergence: 0 forward KL(teacher, student), 1 reverse KL(student, teacher), between them the generalised
    Jensen-Shannon divergence with this share of the teacher in the mixture."""
    temperature: float = argument(1.0, above=0, inert_when=_ONLY_DATA)
    """Divides the logits of both models in the divergence (not in the cross-entropy). The divergence is not multiplied
    by its square."""
    lmbda: float = argument(0.0, minimum=0, maximum=1)
    """Share of updates whose answers the student samples itself, at ``temperature``, in place of those of the data
    (GKD, on-policy); needs kd_coef 1."""


def check_own_answers(v: Any) -> Iterator[str]:
    """Check (see ``arguments.parser.Check``) that the student does not learn its own answers by heart, and that they
    fit into the token budget.
    """
    if v.lmbda and v.kd_coef < 1:
        yield (
            f"lmbda={v.lmbda:g} with kd_coef={v.kd_coef:g}: the cross-entropy would train the student on its own "
            "answers. Give kd_coef=1, or lmbda=0 to train on the answers of the data"
        )
    if v.lmbda and v.packing_samples and v.max_tokens_per_batch is not None and v.max_tokens_per_batch < v.max_length:
        yield (
            f"max_tokens_per_batch={v.max_tokens_per_batch} is below max_length={v.max_length}: an answer that the "
            f"student samples may need all of it. Give {v.max_length} or more"
        )


def distillation_loss(
    output: tuple[Tensor, Tensor, Tensor],
    *,
    fields: Mapping[str, Tensor],
    hyperparameters: DistillationHyperparameters,
    denominator: float | Tensor,
) -> Loss:
    """Return (1 - kd_coef) cross-entropy + kd_coef divergence, both per target token.

    ``output`` [T] each: the student's log-probs of the targets, the divergences at them, and the teacher's log-probs.
    Metrics: ``kd/loss``, its two parts ``kd/ce`` and ``kd/divergence``, and ``kd/teacher_ce``.
    """
    logprobs, divergences, teachers = output
    ce, divergence = -logprobs.sum() / denominator, divergences.sum() / denominator
    value = (1 - hyperparameters.kd_coef) * ce + hyperparameters.kd_coef * divergence
    parts = {"loss": value, "ce": ce, "divergence": divergence, "teacher_ce": -teachers.sum() / denominator}
    return Loss(value, {f"kd/{name}": Metric(number.detach()) for name, number in parts.items()})
