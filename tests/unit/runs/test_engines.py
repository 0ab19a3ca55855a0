"""Which engine a run opens, what the log says of it, and whether it can sample beside the updates."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from alignment.architecture.layout import Layout
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.parallel.comms.group import Group
from alignment.parallel.roles import RoleRanks
from alignment.parallel.topology import Topology
from alignment.rollout.placed_engine import PlacedEngine
from alignment.rollout.team_engine import TeamEngine
from alignment.runs.on_policy import engines
from alignment.runs.on_policy.engines import EngineLines, EngineRows, build_ahead, open_engine
from alignment.trainers.ppo.arguments import parse_ppo_arguments
from tests.tiny_models import tiny_causal

ROWS = EngineRows(total=4, at_once=-1, usable=16)
LINES = EngineLines("rollouts: fused engine (kernels)", ("rollout_kv_type=int8 has no effect",))
KEYS = {"train_datasets": "p", "actor_model_name_or_path": "a", "reward_model_name_or_path": "r", "output_dir": "o"}
FUSED = object.__new__(FusedEngine)


@pytest.fixture
def told(monkeypatch, caplog):
    """The lines of the log of the main process; the engine that is built is ``FUSED``."""
    monkeypatch.setattr(engines, "_build_inner", lambda *given, **named: (FUSED, LINES))
    monkeypatch.setattr(engines.log, "is_main", lambda: True)
    with caplog.at_level(logging.INFO, logger="alignment"):
        yield caplog


def launch_of(world_size=1, device="cpu", roles=None, **keys):
    topology = SimpleNamespace(world_size=world_size, device=device)
    parsed = parse_ppo_arguments({**KEYS, "rollout_ahead": 1, **keys})
    return SimpleNamespace(parsed=parsed, topology=topology, roles=roles or {})


def policy_of(offloaded=None):
    return SimpleNamespace(offloaded_model=offloaded, runner=SimpleNamespace(model=tiny_causal(seed=1)))


@pytest.mark.parametrize(("engine", "launch", "offloaded", "why"), [
    (FUSED, {}, None, None),
    (object(), {}, None, "the engine reads the policy's own weights"),
    (FUSED, {}, "its model", "the policy is offloaded"),
    (FUSED, {"device": "gpu"}, None, "both use the GPU"),
    (object.__new__(TeamEngine), {"world_size": 2}, None, "several processes roll out and update in one fixed order"),
    (object.__new__(PlacedEngine), {"world_size": 2}, None, "several processes roll out and update in one fixed order"),
])  # fmt: skip
def test_why_a_rollout_ahead_saves_no_time_is_said(engine, launch, offloaded, why, caplog):
    with caplog.at_level(logging.INFO, logger="alignment"):
        ahead = build_ahead(launch_of(**launch), engine, policy_of(offloaded))
    assert ahead.is_on and ahead.overlaps == (why is None) and not ahead.needs_greedy
    order = "beside the updates, in a thread" if why is None else f"before the updates, which saves no time ({why})"
    assert caplog.text.strip().endswith(f"the next rollout is sampled {order}")


def test_a_rollout_ahead_of_an_algorithm_with_greedy_responses_needs_them():
    assert build_ahead(launch_of(rl_algorithm="remax"), FUSED, policy_of()).needs_greedy


def test_a_placement_in_one_process_has_the_engine_of_one_process(told):
    launch = launch_of(roles={"policy": RoleRanks(), "rollout": RoleRanks()})
    launch.topology = Topology(device="cpu")
    engine = open_engine(launch, policy_of(), ROWS)
    assert engine is FUSED and build_ahead(launch, engine, policy_of()).overlaps
    assert [record.getMessage() for record in told.records[:2]] == [LINES.warnings[0], LINES.description]


@pytest.mark.parametrize("is_here", [False, True])
def test_the_main_process_names_the_engine_of_other_ranks(is_here, told, monkeypatch):
    """What the engine's rank says reaches all ranks; here the process is that rank, or one without an engine."""
    shared = []

    def share(works):
        shared.append(works[0].action())
        return [shared[0] or LINES]

    monkeypatch.setattr(engines, "share_work", share)
    topology = Topology(device="cpu") if is_here else None
    world = Group("world", [0, 1], rank=0)
    who = RoleRanks(world=world, ranks=(0,) if is_here else (1,), layout=Layout(), topology=topology)
    launch = launch_of(world_size=2, roles={"policy": who, "rollout": who})
    launch.ranks_of = lambda role: who
    assert isinstance(open_engine(launch, policy_of(), ROWS), PlacedEngine)
    assert shared == [LINES if is_here else None]
    assert [record.getMessage() for record in told.records] == [LINES.warnings[0], LINES.description]
