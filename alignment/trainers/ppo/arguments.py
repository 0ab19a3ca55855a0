"""Arguments of on-policy training: datasets, models, batches and the algorithm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.arguments import validate, validate_on_policy
from alignment.arguments.groups import Choice, Groups
from alignment.arguments.keys.cost import CostArguments
from alignment.arguments.keys.critic import CriticArguments
from alignment.arguments.keys.generation import GenerationArguments
from alignment.arguments.keys.reference_server import ReferenceServerArguments
from alignment.arguments.keys.reference_start import ReferenceStartArguments
from alignment.arguments.keys.reward_source import RewardSourceArguments
from alignment.arguments.keys.rollout_engine import RolloutEngineArguments
from alignment.arguments.keys.savings import SavingsArguments
from alignment.arguments.keys.shared import SHARED
from alignment.arguments.keys.training import NO_EVALUATION
from alignment.arguments.parsed import Parsed
from alignment.arguments.parser import Check, Values, Written, parse_arguments
from alignment.arguments.peers.presets import PresetName
from alignment.arguments.rewards.entries import model_kind, read_entries
from alignment.arguments.rewards.terms import RewardTermArguments
from alignment.arguments.roles.placement import PlacementArguments
from alignment.errors import ArgumentError
from alignment.fields import Case, argument, where, where_given
from alignment.trainers.ppo.placement_check import check_placement, complete_placement

_PEERS_NAMES = MappingProxyType(
    {
        "gae": "ppo",
        "reinforce": "reinforce_plus_plus",
        "reinforce++": "reinforce_plus_plus",
        "reinforce_baseline": "reinforce_plus_plus_baseline",
        "group_norm": "grpo",
        "drgrpo": "dr_grpo",
    }
)
_UNWEIGHTED = Case(
    lambda value, s: s.values["on_logprob_gap"] != "correct" and not s.values["rollout_ahead"],
    "on_logprob_gap is not correct and rollout_ahead is 0",
)


@dataclass(frozen=True, kw_only=True)
class OnPolicyArguments:
    """What to train on, from which models, in which batches, with which algorithm."""

    train_datasets: str = argument(path="datasets")
    """Prompts to train on: name[:proportion[:path]], several separated by commas."""
    eval_datasets: str | None = argument(None, path="datasets", inert_when=NO_EVALUATION)
    """Prompts to evaluate on."""
    ptx_datasets: str | None = argument(None, path="datasets", inert_when=where("ptx_coeff", 0))
    """Supervised data for the language-model loss; null: no such loss."""
    remove_same_inputs: bool = True
    """Of equal prompts use only the last, as PaddleNLP and safe-rlhf do (the ledger counts duplicate_prompt); false:
    use all of them, as TRL, OpenRLHF and verl do, each as a group of its own (counted as repeated_prompt).
    """
    actor_model_name_or_path: str = argument(path="model")
    """Folder or hub name of the model that the policy and the reference start from."""

    per_device_prompt_batch_size: int = argument(
        16, minimum=1, inert_when=where_given("global_batch_size", "global_batch_size wins")
    )
    """Prompts per rollout in one process."""
    global_batch_size: int = argument(-1, minimum=-1, excluded=(0,))
    """Prompts per rollout over all processes; -1: per_device_prompt_batch_size in each process with its own rows."""
    global_mini_batch_size: int = argument(-1, minimum=-1, excluded=(0,), aliases=("mini_batch_size",))
    """Prompts per update, over all processes; -1: given by gradient_accumulation_steps."""
    num_return_sequences: int = argument(1, minimum=1, aliases=("rollout_n",))
    """Responses per prompt; all are trained on."""
    per_device_rollout_batch_size: int = argument(-1, minimum=-1, excluded=(0,), aliases=("rollout_max_num_seqs",))
    """Sequences generated concurrently in one process; -1: all of a rollout."""
    per_device_logprob_batch_size: int = argument(
        -1, minimum=-1, excluded=(0,), aliases=("rollout_logprob_batch_size",)
    )
    """Rows per forward pass for log-probs of policy and reference; -1: per_device_train_batch_size."""
    update_iters: int = argument(1, minimum=1)
    """Passes over each rollout."""
    importance_weight_cap: float = argument(2.0, minimum=1, inert_when=_UNWEIGHTED)
    """Upper limit of the weights of on_logprob_gap=correct and of rollout_ahead."""
    rollout_ahead: int = argument(0, minimum=0, maximum=1)
    """1: sample the next rollout with the weights from before the updates of the present one, beside them where the
    engine has weights of its own (fused engine, one process, CPU, no offload of the policy), else before them. Its
    policy loss is weighted per token by the probability before its updates / that of the weights that sampled it, at
    most importance_weight_cap; logprob_gap_limit then only concerns rollouts of the present weights, such as the first.
    0: sample each rollout with the present weights.
    """

    use_rollout_routing_replay: Literal["auto"] | bool = "auto"
    """Score and train a policy with experts with those that the rollout gave each token to; the weights of these are
    its own router's. auto: unless trainer and engine compute in float32, where they choose the same but for near ties.
    Reference and critics choose by themselves.
    """
    on_reward_hacking: Literal["warn", "lower_lr", "raise_kl", "stop_at_best"] = "warn"
    """What to do when the reward rises for the wrong reasons (docs/how-to/reward_hacking.md), each time another kind of
    sign is seen. warn: log it with answers to read; lower_lr: also halve the policy's learning rates; raise_kl: double
    kl_coeff and kl_loss_coeff; stop_at_best: end the run and export the weights of the best evaluation, by
    metric_for_best_model, else the first of eval_reward (of its greedy answers with eval_greedy), else the reward
    before any sign.
    """

    use_ema: bool = argument(False, aliases=("enable_ema",))
    """Also keep an exponential moving average of the policy's weights, in float32, and export it to policy_ema.
    Rollouts use the trained weights (PaddleNLP rolls out with the average).
    """
    ema_beta: float = argument(0.992, minimum=0, below=1, inert_when=where("use_ema", False))
    """Weight of the old average at each update of the policy."""

    preset: PresetName | None = None
    """Take defaults and conventions from another suite, or (recommended) what learned fastest here: --help preset lists
    them. Keys that are given win over defaults and are refused against conventions; null: PaddleNLP's.
    """
    rl_algorithm: str = argument("ppo", aliases=("advantage_estimator", "adv_estimator"), spellings=_PEERS_NAMES)
    """Algorithm; each adds keys of its own. OpenRLHF's and verl's names are understood."""
    ptx_coeff: float = argument(0.0, minimum=0, inert_when=where("ptx_datasets", None))
    """Weight of the language-model loss on ptx_datasets."""


def _critic_group(algorithm: str) -> type | None:
    return CriticArguments if ALGORITHMS[algorithm].needs_critic else None


def _cost_group(algorithm: str) -> type | None:
    return CostArguments if ALGORITHMS[algorithm].needs_cost else None


GROUPS: Groups = MappingProxyType(
    {
        "on_policy": OnPolicyArguments,
        "engine": RolloutEngineArguments,
        "savings": SavingsArguments,
        "reference_server": ReferenceServerArguments,
        "reference_start": ReferenceStartArguments,
        "algorithm": Choice("rl_algorithm", {name: ALGORITHMS[name].hyperparameters for name in ALGORITHMS}),
        "reward_source": RewardSourceArguments,
        "reward_terms": RewardTermArguments,
        "critic": Choice("rl_algorithm", {name: _critic_group(name) for name in ALGORITHMS}),
        "cost": Choice("rl_algorithm", {name: _cost_group(name) for name in ALGORITHMS}),
        "generation": GenerationArguments,
        "placement": PlacementArguments,
        **SHARED,
    }
)


def check_group_size(v: Values) -> Iterator[str]:
    """Check that an algorithm that compares the responses to a prompt gets enough of them."""
    least, samples = ALGORITHMS[v.rl_algorithm].min_group_size, v.num_return_sequences
    if samples < least:
        yield (
            f"num_return_sequences={samples} with rl_algorithm={v.rl_algorithm}, which compares the responses to one "
            f"prompt: give at least {least}"
        )
    elif v.dynamic_sampling and samples < 2:
        yield (
            f"num_return_sequences={samples} with dynamic_sampling=true, which compares the rewards of the responses "
            "to one prompt: give at least 2"
        )


def check_greedy_baseline(v: Values) -> Iterator[str]:
    """Check that a response and its greedy baseline are scored on one scale."""
    if not ALGORITHMS[v.rl_algorithm].needs_greedy:
        return
    would = f"with rl_algorithm={v.rl_algorithm} would scale a response and its greedy baseline by different statistics"
    instead = "(normalize_advantage=true scales the advantages)"
    if v.normalize_reward:
        yield f"normalize_reward=true {would}: give normalize_reward=false {instead}"
    named = ", ".join(entry.log_as for entry in read_entries(v.reward_sources) if entry.normalize)
    if named:
        yield f'reward_sources: "normalize": true of {named} {would}: leave it out {instead}'


def check_pairwise(v: Values) -> Iterator[str]:
    """Check that models that compare responses have several to a prompt, and that their questions can be asked."""
    entries = read_entries(v.reward_sources)
    named = [entry.name for entry in entries if entry.kind == "pairwise"]
    if v.reward_model_name_or_path and model_kind(v.reward_model_name_or_path) == "pairwise":
        named.append(v.reward_model_name_or_path)
    compares = f"{', '.join(named)}, which compares the responses to a prompt with each other"
    if named and v.num_return_sequences < 2:
        yield (
            f"num_return_sequences={v.num_return_sequences} with the pairwise reward model {compares}: give 2 or more "
            "(K responses to a prompt cost K * (K - 1) comparisons)"
        )
    if named and ALGORITHMS[v.rl_algorithm].needs_greedy:
        yield (
            f"rl_algorithm={v.rl_algorithm}, which scores a greedy response of its own, with the pairwise reward model "
            f"{compares}: give grpo or rloo"
        )
    for entry in (*entries, *read_entries(v.eval_reward)):
        if entry.kind == "pairwise":
            from alignment.data.comparison import PairQuestion  # late: all datasets come with it

            try:
                PairQuestion.from_record(entry.options)
            except ArgumentError as error:
                yield f"options of {entry.name}: {error}"


def check_rollout_ahead(v: Values) -> Iterator[str]:
    """Check that rollouts of earlier weights are corrected for."""
    if v.rollout_ahead and v.on_logprob_gap == "recompute":
        yield (
            "on_logprob_gap=recompute with rollout_ahead=1 would take the log-probs of the weights that sampled a "
            "rollout as those of the policy before its updates: give correct, warn or stop"
        )


def check_all_costs(v: Values) -> Iterator[str]:
    """Check that the mean cost, which moves lambda, is that of all responses."""
    if ALGORITHMS[v.rl_algorithm].needs_cost and v.dynamic_sampling:
        yield (
            f"dynamic_sampling=true with rl_algorithm={v.rl_algorithm} would compare with threshold the costs of only "
            "those prompts whose rewards differ: give dynamic_sampling=false"
        )


CHECKS: tuple[Check, ...] = (
    *validate.CHECKS,
    *validate_on_policy.CHECKS,
    check_group_size,
    check_greedy_baseline,
    check_pairwise,
    check_rollout_ahead,
    check_all_costs,
    check_placement,
)


def parse_ppo_arguments(written: Written) -> Parsed:
    """Return the arguments of an on-policy run; see ``parse_arguments``."""
    return complete_placement(parse_arguments(GROUPS, written, checks=CHECKS))
