"""Arguments to a reward-model (or cost-model) run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignment.algorithms.bradley_terry import BradleyTerryHyperparameters
from alignment.data import PreferenceDataset, SafetyPreferenceDataset
from alignment.models.decoder.placement import Placement
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folders.hub import load_score_model, random_score_model
from alignment.models.tokenizer.tokenizer import Tokenizer
from alignment.parallel.runner import ModelRunner
from alignment.runs.dataset_run import DatasetRun
from alignment.runs.datasets import (
    encode_options,
    open_dataset,
    register_user_datasets,
    report_ledgers,
    split_for_evaluation,
)
from alignment.runs.launch import Launch, launch
from alignment.runs.models import adopt, check_start, starting_folder, starting_tokenizer
from alignment.trainers.reward.arguments import parse_reward_arguments
from alignment.trainers.reward.evaluation import PairEvaluation
from alignment.trainers.reward.pairs import PAIR_KINDS, build_task

DATASETS = {"reward": PreferenceDataset, "cost": SafetyPreferenceDataset}


def train(argv: Sequence[str], *, host: str) -> None:
    """Train a reward model from the command line's arguments to the exported folder ``reward/``."""
    with launch(parse_reward_arguments(argv), host=host) as start:
        train_from(start)


def train_from(start: Launch) -> None:
    """Train a reward model from its start to the exported folder."""
    parsed, reward = start.parsed, start.parsed.reward
    folder = starting_folder(start, reward, "reward", parts=("policy", "reward", "value"))
    tokenizer = starting_tokenizer(start, folder)
    check_start(start, reward, folder, tokenizer)
    register_user_datasets(start)
    kind, dataset_class = PAIR_KINDS[reward.objective], DATASETS[reward.objective]
    options = encode_options(start, max_prompt_length=parsed.data.max_prompt_len)
    pairs = open_dataset(start, dataset_class, reward.train_datasets, tokenizer, options)
    wanted = reward.eval_datasets if parsed.training.evaluates else None
    held_out = open_dataset(start, dataset_class, wanted, tokenizer, options, role="eval") if wanted else None
    pairs, held_out = split_for_evaluation(start, pairs, held_out)
    report_ledgers(start, {"train": pairs, "eval": held_out})

    def make_evaluation(runner: ModelRunner) -> PairEvaluation:
        return PairEvaluation(
            runner=runner,
            kind=kind,
            pairs=list(held_out),
            training_pairs=[pairs[i] for i in range(min(len(pairs), len(held_out)))],
            rows_per_batch=parsed.training.per_device_eval_batch_size,
            decode=lambda ids: tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True),
            plot_dir=start.output_dir / "plots" if start.topology.is_main else None,
        )

    hyperparameters = BradleyTerryHyperparameters(
        loss_type=reward.loss_type,
        regularization=reward.regularization,
        regularization_convention=reward.regularization_convention,
    )
    model = load_starting_model(start, folder, tokenizer)
    adopt(start, model, tokenizer)
    DatasetRun(
        start=start,
        title="reward model" if reward.objective == "reward" else "cost model",
        name="reward",
        model=model,
        tokenizer=tokenizer,
        dataset=pairs,
        task=build_task(kind, hyperparameters, model=model),
        make_evaluation=make_evaluation if held_out is not None else None,
        best_metric="accuracy",
        shown=("preference/loss", "preference/accuracy", "cost/loss", "cost/accuracy", "reward/gradient_norm"),
        cards=("eval/accuracy", "eval/train_accuracy", "eval/rewards_mean", "eval/rewards_std"),
        parts={},
    ).train()


def load_starting_model(start: Launch, folder: str | None, tokenizer: Tokenizer) -> ScoreModel:
    """Return the score model to train: a checkpoint's, a reward model's, or a language model with a new score head."""
    reward, seed = start.parsed.reward, start.parsed.training.seed
    placement = Placement.of(start.topology)
    options = ScoreOptions(
        score_type=reward.objective,
        score_bias=reward.score_bias,
        do_normalize=reward.normalize_score_during_training,
        normalizer_type=reward.normalizer_type,
        normalizer_momentum=reward.normalizer_momentum,
    )
    if folder is None:
        config = reward.model_config_name_or_path
        return random_score_model(
            config, options, seed=seed, tokenizer=tokenizer, dtype=start.dtype, placement=placement
        )
    fresh = start.checkpoint is None
    return load_score_model(
        folder,
        dtype=start.dtype,
        options=options if fresh else None,
        new_score_head=fresh,
        head_prefix=reward.value_head_prefix if fresh else None,
        seed=seed,
        placement=placement,
    )
