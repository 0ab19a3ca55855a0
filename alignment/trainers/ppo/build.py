"""On-policy training, from the arguments to the exported models."""

from __future__ import annotations

from collections.abc import Callable

from alignment.arguments.parser import Written
from alignment.records import Experience
from alignment.runs.launch import Launch, open_launch
from alignment.runs.on_policy.prompts import RowPlan, load_data
from alignment.runs.on_policy.roles import load_roles
from alignment.runs.on_policy.run import OnPolicyRun
from alignment.trainers.ppo.arguments import parse_ppo_arguments


def train(written: Written, *, host: str, observe: Callable[[Experience], None] | None = None) -> None:
    """Train from the arguments to the exported models; ``observe`` is called with every experience."""
    with open_launch(parse_ppo_arguments(written), host=host) as launch:
        train_from(launch, observe)


def train_from(launch: Launch, observe: Callable[[Experience], None] | None = None) -> None:
    """Train from an open launch to the exported models."""
    roles = load_roles(launch)
    plan = RowPlan.of(launch.parsed, batch_ranks=launch.ranks_of("policy").layout.batch)
    run = OnPolicyRun(launch, roles, load_data(launch, roles, plan), plan)
    if not launch.parsed.parallel.distributed_dry_run:
        run.train(observe)
