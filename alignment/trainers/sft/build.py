"""Arguments to a supervised fine-tuning run."""

from __future__ import annotations

from collections.abc import Sequence

from alignment.data import SupervisedDataset
from alignment.loops.supervised import SupervisedTask
from alignment.models.decoder.placement import Placement
from alignment.models.folders.hub import load_causal_lm, random_causal_lm
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
from alignment.trainers.sft.arguments import parse_sft_arguments
from alignment.trainers.sft.evaluation import SupervisedEvaluation
from alignment.training.objectives import supervised_batch, supervised_objective


def train(argv: Sequence[str], *, host: str) -> None:
    """Run supervised fine-tuning from the command line's arguments to the exported model."""
    with launch(parse_sft_arguments(argv), host=host) as start:
        train_from(start)


def train_from(start: Launch) -> None:
    """Run supervised fine-tuning from its start to the exported model."""
    parsed = start.parsed
    folder = starting_folder(start, parsed.sft, "policy", parts=("policy",))
    tokenizer = starting_tokenizer(start, folder)
    check_start(start, parsed.sft, folder, tokenizer)
    register_user_datasets(start)
    options = encode_options(start, max_prompt_length=parsed.data.max_prompt_len)
    rows = open_dataset(start, SupervisedDataset, parsed.sft.train_datasets, tokenizer, options)
    wanted = parsed.sft.eval_datasets if parsed.training.evaluates else None
    held_out = open_dataset(start, SupervisedDataset, wanted, tokenizer, options, role="eval") if wanted else None
    rows, held_out = split_for_evaluation(start, rows, held_out)
    report_ledgers(start, {"train": rows, "eval": held_out})
    placement = Placement.of(start.topology)
    if folder is None:
        config, seed = parsed.sft.model_config_name_or_path, parsed.training.seed
        model = random_causal_lm(config, seed=seed, tokenizer=tokenizer, dtype=start.dtype, placement=placement)
    else:
        model = load_causal_lm(folder, dtype=start.dtype, tokenizer=tokenizer, placement=placement)
    adopt(start, model, tokenizer)

    def make_evaluation(runner: ModelRunner) -> SupervisedEvaluation:
        return SupervisedEvaluation(
            runner=runner, samples=list(held_out), rows_per_batch=parsed.training.per_device_eval_batch_size
        )

    DatasetRun(
        start=start,
        title="SFT",
        name="policy",
        model=model,
        tokenizer=tokenizer,
        dataset=rows,
        task=SupervisedTask(make_batch=supervised_batch, make_objective=supervised_objective),
        make_evaluation=make_evaluation if held_out is not None else None,
        best_metric="loss",
        shown=("sft/loss", "policy/gradient_norm", "policy/learning_rate"),
        cards=("eval/loss", "eval/perplexity", "eval/accuracy"),
        parts={},
    ).train()
