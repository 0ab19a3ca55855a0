"""The offline objectives: SFT, the score models, and those made from a preference loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from alignment.algorithms.bradley_terry import BradleyTerryHyperparameters, bradley_terry_loss, gated_loss
from alignment.algorithms.cost_model import cost_model_loss
from alignment.algorithms.distillation import distillation_loss
from alignment.algorithms.letter_preference import letter_loss
from alignment.algorithms.preference.spec import PreferenceAlgorithm
from alignment.algorithms.process_rewards import process_loss
from alignment.algorithms.regression import regression_loss
from alignment.algorithms.supervised_losses import sft_loss
from alignment.arguments.parsed import Parsed
from alignment.data import (
    AttributeDataset,
    ComparisonDataset,
    LogMarginPreferenceDataset,
    MarginPreferenceDataset,
    PreferenceDataset,
    ProcessDataset,
    SafetyPreferenceDataset,
    SupervisedDataset,
    UnpairedPreferenceDataset,
)
from alignment.parallel.runner import ModelRunner
from alignment.records import Loss, TokenBatch
from alignment.runs.offline.attributes import (
    AttributeEvaluation,
    attribute_batch,
    check_values,
    count_known,
    read_attributes,
)
from alignment.runs.offline.comparisons import ComparisonEvaluation, comparison_batch, read_letters
from alignment.runs.offline.gating import GATED, read_gated_scores, settle_lengths
from alignment.runs.offline.labelled import labelled_batch
from alignment.runs.offline.loss_evaluation import LossEvaluation
from alignment.runs.offline.models import JUDGE, POLICY, SCORER
from alignment.runs.offline.objective import OfflineObjective
from alignment.runs.offline.pair_evaluation import PairEvaluation
from alignment.runs.offline.pairs import (
    COST_PAIRS,
    REWARD_PAIRS,
    SIDES,
    PairKind,
    answer_batch,
    count_answers,
    count_pairs,
    pair_batch,
    pair_reader,
    read_pair_scores,
)
from alignment.runs.offline.steps import StepEvaluation, count_steps, read_step_scores, step_batch
from alignment.runs.offline.supervised_evaluation import SupervisedEvaluation
from alignment.trainers.offline_arguments import KEYS
from alignment.trainers.registered import TRAINERS
from alignment.trainers.trainer import PreferenceTrainer
from alignment.training.objectives import (
    count_targets,
    read_answer_logprobs,
    read_logprobs,
    read_split_answers,
    supervised_batch,
    supervised_reader,
)

SFT = OfflineObjective(
    name="sft",
    title="SFT",
    model=POLICY,
    dataset=SupervisedDataset,
    make_batch=supervised_batch,
    read=read_logprobs,
    reader=supervised_reader,
    loss=sft_loss,
    **KEYS["sft"]._asdict(),
    count=count_targets,
    make_evaluation=SupervisedEvaluation.of,
    best_metric="loss",
    shown=("sft/loss",),
    cards=("eval/loss", "eval/perplexity", "eval/accuracy"),
)

KD = OfflineObjective(
    name="kd",
    title="distillation",
    model=POLICY,
    dataset=SupervisedDataset,
    make_batch=supervised_batch,
    read=read_logprobs,
    **KEYS["kd"]._asdict(),
    loss=distillation_loss,
    count=count_targets,
    make_evaluation=LossEvaluation.of,
    best_metric="loss",
    shown=("kd/loss", "kd/divergence"),
    cards=("eval/loss", "eval/divergence", "eval/ce", "eval/teacher_ce"),
)

PAIRWISE = OfflineObjective(
    name="pairwise",
    title="pairwise preference model",
    model=JUDGE,
    dataset=ComparisonDataset,
    **KEYS["pairwise"]._asdict(),
    make_batch=comparison_batch,
    rows_per_sample=2,
    targets_per_row=1,
    read=read_letters,
    loss=letter_loss,
    count=count_targets,
    make_evaluation=ComparisonEvaluation.of,
    best_metric="accuracy",
    shown=("pairwise/loss", "pairwise/accuracy"),
    cards=("eval/accuracy", "eval/train_accuracy", "eval/first_share", "eval/consistency"),
)


def _of_sides(loss: Callable[..., Loss]) -> Callable[..., Loss]:
    """Return ``loss`` as a function of the pair of scores."""
    return lambda scores, **options: loss(*scores, **options)


def _learn_statistics(model: Any, runner: ModelRunner) -> None:
    model.learn_statistics(runner.share)


def _score_objective(kind: PairKind, **row: Any) -> OfflineObjective:
    """Return the objective of a score model trained on pairs of ``kind``."""

    def make_batch(samples: Sequence[Any]) -> TokenBatch:
        return pair_batch(samples, kind)

    return OfflineObjective(
        model=SCORER,
        hyperparameters=BradleyTerryHyperparameters,
        make_batch=make_batch,
        rows_per_sample=len(kind.sides),
        read=read_pair_scores,
        reader=pair_reader,
        count=count_pairs,
        make_evaluation=partial(PairEvaluation.of, kind=kind),
        best_metric="accuracy",
        cards=("eval/accuracy", "eval/train_accuracy", "eval/rewards_mean", "eval/rewards_std"),
        after_update=_learn_statistics,
        **row,
    )


REWARD = _score_objective(
    REWARD_PAIRS,
    name="preference",
    title="reward model",
    dataset=PreferenceDataset,
    loss=_of_sides(bradley_terry_loss),
    shown=("preference/loss", "preference/accuracy"),
)
COST = _score_objective(
    COST_PAIRS,
    name="cost",
    title="cost model",
    dataset=SafetyPreferenceDataset,
    loss=_of_sides(cost_model_loss),
    shown=("cost/loss", "cost/accuracy"),
)
REGRESSION = OfflineObjective(
    name="regression",
    title="regression reward model",
    model=SCORER,
    dataset=AttributeDataset,
    hyperparameters=BradleyTerryHyperparameters,
    make_batch=attribute_batch,
    read=read_attributes,
    loss=regression_loss,
    count=count_known,
    check_rows=check_values,
    make_evaluation=AttributeEvaluation.of,
    best_metric="loss",
    shown=("regression/loss",),
    cards=("eval/loss", "eval/pearson"),
)
PROCESS = OfflineObjective(
    name="process",
    title="process reward model",
    model=SCORER,
    dataset=ProcessDataset,
    hyperparameters=BradleyTerryHyperparameters,
    make_batch=step_batch,
    read=read_step_scores,
    loss=process_loss,
    count=count_steps,
    make_evaluation=StepEvaluation.of,
    best_metric="loss",
    shown=("process/loss", "process/accuracy"),
    cards=("eval/loss", "eval/accuracy", "eval/train_accuracy"),
)
GATING = replace(
    REWARD,
    title="gating network of a reward model",
    model=GATED,
    read=read_gated_scores,
    reader=None,
    loss=gated_loss,
    settle_model=settle_lengths,
    after_update=None,
)
SCORE_OBJECTIVES = {"reward": REWARD, "cost": COST, "regression": REGRESSION, "gating": GATING, "process": PROCESS}
"""Value of the key ``objective`` to objective."""


def _preference_objective(trainer: PreferenceTrainer) -> OfflineObjective:
    """Return the row of a policy that learns from the log-probs of whole answers."""
    algorithm = trainer.load_algorithm()
    labels, paired = algorithm.labels, algorithm.labels is None
    shown = "rewards/accuracies" if paired else "rewards/margins"
    return OfflineObjective(
        name=trainer.name,
        title=trainer.label,
        model=POLICY,
        dataset=PreferenceDataset if paired else UnpairedPreferenceDataset,
        **KEYS[trainer.name]._asdict(),
        make_batch=answer_batch if paired else labelled_batch,
        rows_per_sample=len(SIDES) if paired else 1,
        read=read_answer_logprobs,
        reader=partial(_answer_reader, algorithm),
        loss=algorithm.loss,
        count=count_answers if paired else labels.count,
        labels=labels,
        make_survey=algorithm.make_survey,
        make_evaluation=LossEvaluation.of,
        best_metric="loss",
        shown=(f"{trainer.name}/loss", shown),
        cards=tuple(dict.fromkeys((f"eval/{shown}", "eval/rewards/margins", "eval/loss"))),
    )


def _answer_reader(algorithm: PreferenceAlgorithm, hyperparameters: Any) -> Callable[..., Any]:
    """Return what reads the log-probs of answers as the loss of ``algorithm`` needs them."""
    splits = algorithm.splits_answers is not None and algorithm.splits_answers(hyperparameters)
    return read_split_answers if splits else read_answer_logprobs


OBJECTIVES = {"sft": SFT, "kd": KD, "pairwise": PAIRWISE} | {
    trainer.name: _preference_objective(trainer)
    for trainer in map(TRAINERS.__getitem__, TRAINERS)
    if isinstance(trainer, PreferenceTrainer)
}
"""Trainer name to its only objective."""


def objective_of(trainer: str, parsed: Parsed) -> OfflineObjective:
    """Return the objective of the offline ``trainer`` with the arguments ``parsed``."""
    chosen = OBJECTIVES[trainer] if trainer in OBJECTIVES else SCORE_OBJECTIVES[parsed.offline.objective]
    loss = parsed.groups.get("loss")
    if chosen is COST or not getattr(loss, "uses_margin", False):
        return chosen
    takes_logarithm = getattr(loss, "offset_alpha", 0) > 0
    return replace(chosen, dataset=LogMarginPreferenceDataset if takes_logarithm else MarginPreferenceDataset)
