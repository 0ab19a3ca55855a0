"""The data of an on-policy run: training and evaluation prompts, and supervised rows for the PTX loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from alignment.arguments.keys.training import TrainingArguments
from alignment.arguments.parsed import Parsed
from alignment.data import PromptOnlyDataset, SupervisedDataset
from alignment.data.encoded.store import count_tokens
from alignment.data.encoded.tokenized import TokenizedDataset
from alignment.data.loader import BatchLoader, ContinuousLoader
from alignment.parallel.micro_batches import MicroBatches
from alignment.records import TokenBatch
from alignment.runs.assembly import Horizon, divide_updates
from alignment.runs.datasets import (
    crossing_prompts,
    encode_options,
    open_dataset,
    register_user_datasets,
    report_ledgers,
    split_for_evaluation,
)
from alignment.runs.launch import Launch
from alignment.runs.on_policy.roles import Roles
from alignment.telemetry.wording import counted
from alignment.training.objectives import supervised_batch


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """How rows (responses) are grouped into iterations, updates and micro-batches."""

    prompts_per_iteration: int
    samples_per_prompt: int
    rows_per_update: int
    micro_batches: MicroBatches
    update_iters: int
    frozen_rollouts: int = 0
    """Rollouts at the start from which only the critic learns."""

    @classmethod
    def of(cls, parsed: Parsed, *, batch_ranks: int = 1) -> RowPlan:
        """Return the plan; prompts of several rollouts are pooled if an update needs more rows than one rollout has.

        ``batch_ranks`` is the number of processes with different rows; batch sizes in the arguments are per process.
        """
        on_policy, training = parsed.on_policy, parsed.training
        rows_per_update = training.per_device_train_batch_size * training.gradient_accumulation_steps * batch_ranks
        prompts_per_rollout = on_policy.per_device_prompt_batch_size * batch_ranks
        rollouts = max(1, rows_per_update // (prompts_per_rollout * on_policy.num_return_sequences))
        return cls(
            prompts_per_iteration=prompts_per_rollout * rollouts,
            samples_per_prompt=on_policy.num_return_sequences,
            rows_per_update=rows_per_update,
            micro_batches=divide_updates(training, training.token_budget(parsed.data.max_length), ranks=batch_ranks),
            update_iters=on_policy.update_iters,
            frozen_rollouts=max(0, parsed.critic.freezing_actor_steps) if "critic" in parsed.groups else 0,
        )

    @property
    def frozen_updates(self) -> int:
        """Updates at the start from which only the critic learns."""
        return self.frozen_rollouts * self.updates_per_rollout

    @property
    def updates_per_rollout(self) -> int:
        """Updates from one rollout."""
        return -(-self.prompts_per_iteration * self.samples_per_prompt // self.rows_per_update) * self.update_iters

    def updates_per_epoch(self, loader: BatchLoader) -> float:
        """Return the updates in one pass over the prompts of ``loader``, a fraction where it ends within a rollout."""
        used = len(loader.samples) - loader.dropped_per_epoch
        return used / self.prompts_per_iteration * self.updates_per_rollout

    def describe(self, horizon: Horizon) -> str:
        """Return what a run of this length does."""
        rows = self.prompts_per_iteration * self.samples_per_prompt
        return (
            f"{counted(horizon.total_updates, 'update')} ({horizon.updates_per_epoch:.4g} per epoch); each rollout is "
            f"{counted(self.prompts_per_iteration, 'prompt')} x {self.samples_per_prompt} = "
            f"{counted(rows, 'response')}, {self.rows_per_update} per update, {self.micro_batches.describe()}, "
            f"{counted(self.update_iters, 'pass')}"
            + (f"; the policy is frozen in the first {self.frozen_updates} updates" if self.frozen_updates else "")
        )

    def describe_run(self, parsed: Parsed, horizon: Horizon) -> str:
        """Return what a run of this length does, and when; see ``describe_rounding``."""
        rounding = self.describe_rounding(parsed.training, horizon, target_kl=parsed.algorithm.target_kl)
        return self.describe(horizon) + rounding

    def describe_rounding(self, training: TrainingArguments, horizon: Horizon, *, target_kl: float | None) -> str:
        """Return when evaluations and checkpoints come whose intervals end within rollouts; empty: none do.

        With ``target_kl`` a rollout may have fewer updates, which is said.
        """
        whole, of_evaluation = self.updates_per_rollout, "eval_steps" if training.eval_steps else "logging_steps"
        told = []
        for what, strategy, key, every in (
            ("evaluations", training.evaluation_strategy, of_evaluation, training.eval_interval),
            ("checkpoints", training.save_strategy, "save_steps", training.save_steps),
        ):
            if strategy == "steps" and every % whole and every <= horizon.total_updates:
                starts = range(0, horizon.total_updates, whole)
                spans = [(start, min(start + whole, horizon.total_updates)) for start in starts]
                due = [end for start, end in spans if end // every > start // every]
                more = ", ..." if len(due) > 3 else ""
                told.append(f"{what} ({key}={every}) after update {', '.join(map(str, due[:3]))}{more}")
        if not told:
            return ""
        unless = "" if target_kl is None else " (if target_kl ends no rollout's updates early)"
        return f"; at the end of a rollout ({counted(whole, 'update')}) come {' and '.join(told)}{unless}"


@dataclass(frozen=True, kw_only=True)
class OnPolicyData:
    """The datasets of one run and their loaders."""

    prompts: TokenizedDataset
    evaluation: TokenizedDataset | None
    prompt_loader: BatchLoader
    ptx_loader: BatchLoader | None


def load_data(launch: Launch, roles: Roles, plan: RowPlan) -> OnPolicyData:
    """Read all datasets, report their ledgers and return the loaders."""
    parsed, given, tokenizer = launch.parsed, launch.parsed.on_policy, roles.tokenizer
    register_user_datasets(launch)
    longest = parsed.data.max_length
    options = encode_options(
        launch,
        max_prompt_length=longest_prompt(parsed),
        unanswerable=crossing_prompts(roles.policy.config, parsed.generation.max_dec_len or longest, longest),
        keeps_duplicates=not given.remove_same_inputs,
    )
    prompts: TokenizedDataset = open_dataset(launch, PromptOnlyDataset, given.train_datasets, tokenizer, options)
    evaluation = ptx = None
    if given.eval_datasets and parsed.training.evaluates:
        evaluation = open_dataset(launch, PromptOnlyDataset, given.eval_datasets, tokenizer, options, role="eval")
    if given.ptx_datasets and given.ptx_coeff:
        ptx = open_dataset(launch, SupervisedDataset, given.ptx_datasets, tokenizer, encode_options(launch))
    prompts, evaluation = split_for_evaluation(launch, prompts, evaluation)
    report_ledgers(launch, {"train": prompts, "eval": evaluation, "ptx": ptx})
    seed = parsed.training.seed if parsed.training.data_seed is None else parsed.training.data_seed
    loader = ContinuousLoader(
        prompts,
        batch_size=plan.prompts_per_iteration,
        seed=seed,
        shuffle=parsed.data.dataloader_shuffle,
        drop_last=parsed.data.dataloader_drop_last,
    )
    ptx_loader = None if ptx is None else BatchLoader(ptx, batch_size=1, seed=seed)
    return OnPolicyData(prompts=prompts, evaluation=evaluation, prompt_loader=loader, ptx_loader=ptx_loader)


def longest_prompt(parsed: Parsed) -> int:
    """Return the token limit of prompts: ``max_prompt_len``, or what ``max_length`` leaves without the response."""
    return parsed.data.max_prompt_len or parsed.data.max_length - (parsed.generation.max_dec_len or 1)


def ptx_batches(loader: BatchLoader, micro_batches: MicroBatches) -> Callable[[int], Sequence[TokenBatch]]:
    """Return a function that returns the requested number of supervised rows, in micro-batches.

    ``loader`` yields one row at a time, so the rows of an update do not depend on the micro-batch size.
    """
    stream: Iterator[list[Any]] = loader.cycle()

    def next_batches(num_rows: int) -> list[TokenBatch]:
        samples = [sample for rows in islice(stream, num_rows) for sample in rows]
        groups = micro_batches.divide([*map(count_tokens, samples)])
        return [supervised_batch([samples[i] for i in group]) for group in groups]

    return next_batches
