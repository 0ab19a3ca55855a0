"""Check that ``placement`` names the roles that a run of the chosen algorithm has, and no others."""

from __future__ import annotations

from collections.abc import Iterator

from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.arguments.parser import Values
from alignment.arguments.rewards.entries import read_entries
from alignment.arguments.roles.placement import ROLES, ROLLOUT, find_role_faults, read_placement
from alignment.errors import ArgumentError


def check_placement(v: Values) -> Iterator[str]:
    """Check the roles of ``placement``; whether the ranks exist is known when the number of processes is."""
    if v.placement is None:
        return
    try:
        shares = read_placement(v.placement)
    except ArgumentError as error:
        yield str(error)
        return
    absent, named = _absent(v), _score_models(v)
    needed = [role for role in ROLES if role not in absent and role != ROLLOUT]
    yield from find_role_faults(shares, needed, absent, named)
    if taken := [name for name in named if name in ROLES]:
        yield f'placement: the score model {taken[0]} has the name of a role: give it another "log_as"'
    if v.eval_mode:
        yield f"eval_mode={v.eval_mode} with placement: the layout of rollouts is that of rollout in placement"


def _score_models(v: Values) -> list[str]:
    """Return the words under which score models among several sources and judges are logged."""
    return [entry.log_as for key in (v.reward_sources, v.eval_reward) for entry in read_entries(key) if entry.is_model]


def _absent(v: Values) -> dict[str, str]:
    """Return why the run lacks a role, by role."""
    spec, choice = ALGORITHMS[v.rl_algorithm], f"rl_algorithm={v.rl_algorithm} has none"
    absent = {}
    if not spec.needs_critic:
        absent["critic"] = choice
    if not spec.needs_cost:
        absent |= {"cost": choice, "cost_critic": choice}
    if v.lora:
        absent["reference"] = "with lora=true it is the policy without its adapter, on the ranks of the policy"
    elif not spec.needs_reference(v):
        absent["reference"] = "the KL to it has no weight in this run"
    if v.reward_model_name_or_path is None and not _score_models(v):
        absent["reward"] = "the rewards of this run do not come from a model"
    return absent
