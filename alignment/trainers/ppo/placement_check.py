"""Check that ``placement`` names the roles that a run of the chosen algorithm has, and no others."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator

from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.arguments.parsed import Parsed
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
    named = _score_models(v)
    absent = _absent(v) | _absent_scores(v, named, shares)
    yield from find_role_faults(shares, [] if _is_together(shares) else _needed(absent), absent, named)
    if taken := [name for name in named if name in ROLES]:
        yield f'placement: the score model {taken[0]} has the name of a role: give it another "log_as"'
    if v.eval_mode:
        yield f"eval_mode={v.eval_mode} with placement: the layout of rollouts is that of rollout in placement"


def complete_placement(parsed: Parsed) -> Parsed:
    """Return ``parsed`` with all roles of the run on the policy's ranks if ``placement`` names no role but the policy
    (and perhaps the engine).
    """
    text = parsed.placement.placement
    if text is None or not _is_together(read_placement(text)):
        return parsed
    needed = _needed(_absent(Values(parsed.as_dict(), parsed.origins)))
    written = {**dict.fromkeys(needed, "policy"), **json.loads(text)}
    return parsed.replace("placement", placement=json.dumps(written))


def _is_together(shares: Collection[str]) -> bool:
    return "policy" in shares and set(shares) <= {"policy", ROLLOUT}


def _needed(absent: Collection[str]) -> list[str]:
    return [role for role in ROLES if role not in absent and role != ROLLOUT]


def _score_models(v: Values) -> list[str]:
    """Return the words under which the score models are logged that the run loads of several sources and judges."""
    keys = (v.reward_sources, v.eval_reward if _judges(v) else None)
    return [entry.log_as for key in keys for entry in read_entries(key) if entry.is_model]


def _judges(v: Values) -> bool:
    return v.do_eval or not v.do_train or v.evaluation_strategy != "no"


def _absent_scores(v: Values, named: Collection[str], shares: Collection[str]) -> dict[str, str]:
    """Return why no model is on the ranks of ``reward``, or on those of a second judge."""
    absent = {}
    if v.reward_model_name_or_path is None and named and set(named) <= set(shares):
        absent["reward"] = f"each reward model has ranks of its own ({', '.join(named)})"
    if not _judges(v):
        idle = [entry.log_as for entry in read_entries(v.eval_reward) if entry.is_model and entry.log_as not in named]
        absent |= dict.fromkeys(idle, "evaluation_strategy=no, so the second judge is not loaded")
    return absent


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
    elif v.reference_server:
        absent["reference"] = "reference_server has it"
    elif not spec.needs_reference(v):
        absent["reference"] = "the KL to it has no weight in this run"
    if v.reward_model_name_or_path is None and not _score_models(v):
        absent["reward"] = "the rewards of this run do not come from a model"
    return absent
