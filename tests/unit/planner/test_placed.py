"""Ranks of a placement: what each holds, by the number, and who waits for whom, as the loop has it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from alignment.algorithms.on_policy.ppo import PPO, PPOHyperparameters
from alignment.architecture.layout import Layout
from alignment.loops import updates
from alignment.parallel.micro_batches import MicroBatches
from alignment.parallel.roles import RoleRanks, share_work
from alignment.planner.engines import engine_memory
from alignment.planner.machine import GIB, Machine
from alignment.planner.memory import OFFLOADED, WAITING
from alignment.planner.placed.phases import Exchange, plan_steps, plan_turns
from alignment.planner.placed.ranks import job_of, placement_problems, plan_ranks, planned_rollout
from alignment.planner.placed.tables import judge
from alignment.rollout import judge as judging
from alignment.rollout.judge import Judge
from alignment.rollout.rewards.scorers import ModelScorer
from tests.unit.loops.test_updates import _experience, _Learner
from tests.unit.planner.jobs import make_config, make_job
from tests.unit.rollout.test_judge import ROLLOUT, _model, _sequences

ONE = Layout()
APART = {
    "policy": ((0,), ONE),
    "critic": ((1,), ONE),
    "reference": ((1,), ONE),
    "reward": ((1,), ONE),
    "rollout": ((0,), ONE),
}
MACHINE = Machine(name="cpu")
LAYER = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 172
"""Elements of a layer's matrices: four heads of keys for eight of queries."""
NORMS = 2 * 64
POLICY = 2 * 1003 * 64 + 4 * (LAYER + NORMS) + 64
SCORE = 1003 * 64 + 4 * (LAYER + NORMS) + 64 + 64
HALF_OF_SCORE = 502 * 64 + 4 * (LAYER // 2 + NORMS) + 64 + 64
"""The first of two tensor-parallel processes: the larger part of the vocabulary, whole norms, and the score head."""


def of_rank(rank, seats=None, **changes):
    """Return what ``rank`` needs in each phase, by component."""
    job = make_job(**changes)
    (found,) = (some for some in plan_ranks(job, seats or APART, MACHINE) if rank in some.ranks)
    return {phase: moment.by_name for phase, moment in found.memory.items()}, found


def test_a_rank_holds_the_models_of_its_roles_and_nothing_of_the_others():
    policy, first = of_rank(0)
    others, second = of_rank(1)
    assert (first.roles, second.roles) == (("policy", "rollout"), ("critic", "reference", "reward"))
    for phase in ("rollout", "score", "update"):
        held = {name: size for name, size in policy[phase].items() if name.endswith("weights") or name == "optimizer"}
        assert held == {"policy weights": POLICY * 4, "optimizer": POLICY * 8}
        held = {name: size for name, size in others[phase].items() if name.endswith("weights") or name == "optimizer"}
        weights = {"critic weights": SCORE * 4, "reference weights": POLICY * 4, "reward weights": SCORE * 4}
        assert held == weights | {"optimizer": SCORE * 8}
    assert second.memory["rollout"].name == WAITING and "key-value cache" in policy["rollout"]
    assert "key-value cache" not in others["rollout"] and policy["update"]["gradients"] == POLICY * 4


def test_every_role_is_divided_by_its_own_degrees():
    seats = {**APART, "critic": ((1, 2), Layout(tensor=2)), "reward": ((1, 2), Layout(data=2))}
    sizes, found = of_rank(2, seats)
    assert found.roles == ("critic", "reward")
    assert sizes["update"]["critic weights"] == HALF_OF_SCORE * 4 and sizes["update"]["optimizer"] == HALF_OF_SCORE * 8
    assert sizes["update"]["reward weights"] == SCORE * 4
    staged = {**APART, "reference": ((1, 2), Layout(pipeline=2))}
    both = [of_rank(rank, staged)[0]["score"]["reference weights"] for rank in (1, 2)]
    half = 2 * (LAYER + NORMS) + 1003 * 64
    assert both == [half * 4, (half + 64) * 4]


def test_ranks_that_hold_the_same_are_one_row():
    seats = {**APART, "policy": ((0, 3), Layout(data=2)), "rollout": ((0, 3), Layout(data=2))}
    seats |= {"critic": ((1, 2), Layout(tensor=2)), "reference": ((1, 2), Layout(data=2))}
    seats |= {"reward": ((1, 2), Layout(data=2))}
    assert [some.ranks for some in plan_ranks(make_job(), seats, MACHINE)] == [(0, 3), (1, 2)]


def test_a_role_on_fewer_ranks_than_the_policy_does_the_rows_of_all():
    seats = {**APART, "policy": ((0, 1, 2, 3), Layout(data=4)), "critic": ((4, 5), Layout(data=2))}
    job = make_job(micro_batches=3, iteration_rows=8)
    assert (job_of(job, seats, "policy").micro_batches, job_of(job, seats, "policy").iteration_rows) == (3, 8)
    assert (job_of(job, seats, "critic").micro_batches, job_of(job, seats, "critic").iteration_rows) == (6, 16)
    assert planned_rollout(job, seats, 0).rows == 32


def test_an_engine_on_a_rank_of_its_own_holds_the_policy_once_and_the_weights_arrive_in_messages():
    seats = {**APART, "rollout": ((2,), ONE)}
    sizes, found = of_rank(2, seats)
    assert found.roles == ("rollout",) and "optimizer" not in sizes["update"]
    assert [sizes[phase]["rollout weights"] for phase in ("score", "update")] == [POLICY * 4] * 2
    # All of a small model is one message: it is there twice, and the policy's rank has a copy to send.
    moments = engine_memory(planned_rollout(make_job(), seats, 2)).moments()
    assert moments[0].device == {"rollout weights": 2 * POLICY * 4}
    policy, first = of_rank(0, seats)
    assert first.memory["rollout"].name == "weights leave"
    assert policy["rollout"]["rollout weights"] == POLICY * 4 and "key-value cache" not in policy["rollout"]
    alone, _ = of_rank(0)
    assert "rollout weights" not in alone["rollout"] and "rollout weights" not in policy["update"]


def test_an_engine_with_other_degrees_on_the_policys_ranks_copies_what_is_cut_otherwise():
    seats = {**APART, "policy": ((0, 2), Layout(tensor=2)), "rollout": ((0, 2), Layout(data=2))}
    sizes, _ = of_rank(0, seats)
    norms = 4 * NORMS + 64  # used in place
    assert sizes["update"]["rollout weights"] == (POLICY - norms) * 4


def test_a_share_that_the_rank_trains_already_is_not_copied():
    seats = {**APART, "policy": ((0, 2), Layout(tensor=2)), "rollout": ((1, 2), Layout(tensor=2))}
    first, second = (of_rank(rank, seats)[0]["update"].get("rollout weights", 0) for rank in (1, 2))
    assert (first, second) == ((2 * 502 * 64 + 4 * (LAYER // 2 + NORMS) + 64) * 4, 0)


def test_what_is_offloaded_is_counted_on_its_own_ranks():
    sizes, found = of_rank(1, offloaded=frozenset({"freeze_model"}))
    assert sizes["rollout"][OFFLOADED] == (POLICY + SCORE) * 4 and "reference weights" not in sizes["rollout"]
    assert OFFLOADED not in of_rank(0, offloaded=frozenset({"freeze_model"}))[0]["update"]
    assert found.memory["score"].name.startswith("reference")


def test_one_of_several_score_models_has_ranks_of_its_own_under_its_name():
    job = {"reward": None, "other_rewards": {"reward-helpful": make_config(), "judge-polite": make_config()}}
    seats = {**APART, "helpful": ((2,), ONE)}
    assert of_rank(2, seats, **job)[1].roles == ("reward-helpful",)
    assert of_rank(1, seats, **job)[1].roles == ("critic", "reference", "judge-polite")


def test_degrees_that_a_model_does_not_divide_by_are_named_with_the_role():
    seats = {**APART, "reward": ((1, 2, 3), Layout(tensor=3))}
    (problem,) = placement_problems(make_job(), seats)
    assert problem.startswith("reward on ranks 1, 2, 3: tensor_parallel_degree=3 does not divide the model's 8")
    assert placement_problems(make_job(), APART) == []


def test_everyone_waits_for_the_slowest_of_a_phase():
    ranks = plan_ranks(make_job(), APART, MACHINE)
    turns = list(plan_turns(make_job(), APART, ranks, MACHINE, target_kl=None))
    told = [(turn.step.phase, turn.ranks.ranks, turn.roles, turn.waits > 0) for turn in turns]
    assert told == [
        ("rollout", (0,), ("rollout",), False),
        ("rollout", (1,), (), True),
        ("score", (0,), ("policy",), True),
        ("score", (1,), ("reward", "reference", "critic"), False),
        ("update", (0,), ("policy",), False),
        ("update", (1,), ("critic",), True),
    ]
    assert turns[1].waits == turns[0].seconds and turns[2].waits == turns[3].seconds - turns[2].seconds
    apart = [turn for turn in plan_turns(make_job(), APART, ranks, MACHINE, target_kl=0.1) if turn.roles]
    assert [turn.roles for turn in apart[-2:]] == [("policy",), ("critic",)] and apart[-1].waits == 0


def recorded(monkeypatch, module, who):
    """Return a list that gets the roles of each exchange of ``module``; ``who`` gives the ranks of each role."""
    steps = []

    def share(works):
        steps.append(tuple(next(role for role, ranks in who.items() if ranks is work.who) for work in works))
        return share_work(works)

    monkeypatch.setattr(module, "share_work", share)
    return steps


@pytest.mark.parametrize("target_kl", [None, 10.0])
def test_the_steps_of_an_update_are_those_of_the_loop(monkeypatch, target_kl):
    who = {role: RoleRanks(ranks=(0,)) for role in ("policy", "critic")}
    steps = recorded(monkeypatch, updates, who)
    plan = updates.UpdatePlan(
        rows_per_update=8, micro_batches=MicroBatches(rows=2), num_epochs=1, seed=0, temperature=1.0, ptx_coeff=0.0,
        with_entropy=False, target_kl=target_kl,
    )  # fmt: skip
    updates.OnPolicyUpdater(
        policy=_Learner(), critic=_Learner("critic"), algorithm=PPO, hyperparameters=PPOHyperparameters(), plan=plan,
        next_ptx=None, ranks=who,
    ).update(_experience(), limit=1)  # fmt: skip
    assert steps == [step.roles for step in plan_steps(make_job(), target_kl=target_kl) if step.phase == "update"]


def test_the_passes_that_score_are_those_of_the_loop(monkeypatch):
    who = {role: RoleRanks(ranks=(0,)) for role in ("policy", "reference", "critic", "reward", "cost", "cost_critic")}
    steps = recorded(monkeypatch, judging, who)
    runners = {role: SimpleNamespace(name=role) for role in ("policy", "reference", "critic", "cost_critic")}
    monkeypatch.setattr(judging, "measure_logprobs", lambda *_, **__: (ROLLOUT.response_mask, None))
    monkeypatch.setattr(judging, "measure_values", lambda *_, **__: ROLLOUT.response_mask)
    from alignment.parallel.dense import DenseRunner

    runners["reference"] = judging.LoadedReference(runner=runners["reference"])

    def scorer(role):
        return ModelScorer(DenseRunner(_model("reward")), _sequences, rows_per_batch=2, who=who[role])

    Judge(
        **runners, scorer=scorer("reward"), cost=scorer("cost"), normalize=None, logprob_rows=2, value_rows=2,
        temperature=1.0, ranks=who,
    ).measure(ROLLOUT)  # fmt: skip
    job = make_job(cost=make_config(), cost_critic=make_config())
    assert [Exchange("score", roles) for roles in steps] == [
        step for step in plan_steps(job, target_kl=None) if step.phase == "score"
    ]


def test_the_verdict_names_every_rank_that_is_too_full_or_the_fullest():
    ranks = plan_ranks(make_job(), APART, MACHINE)
    needs = [some.peak(MACHINE.measure) for some in ranks]
    assert "fits on devices of 4 GiB: rank" in judge(ranks, MACHINE, limit=4 * GIB)
    told = judge(ranks, MACHINE, limit=min(needs) - 1)
    assert "DOES NOT FIT" in told and "rank 0 (policy, rollout) needs" in told and "; rank 1 (critic, " in told
    told = judge([replace(ranks[0]), ranks[1]], MACHINE, limit=max(needs) - 1)
    assert told.count("needs") == 1
