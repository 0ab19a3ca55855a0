"""Every trainer, variant and algorithm gives the numbers of one process; ``make test-distributed`` shows all layouts.

One start of the processes trains everything that is compared in a layout.
"""

from __future__ import annotations

from typing import Any

import pytest

from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.errors import UserError
from alignment.models.folders.hub import load_causal_lm
from alignment.parity.check import References, check_layout
from alignment.parity.layouts import LAYOUTS, num_batch_ranks, num_processes
from alignment.parity.subjects import ADAPTER, SUBJECTS, Subject, make_models
from alignment.telemetry.jsonl import read_json_lines
from alignment.trainers.registered import TRAINERS
from tests.contract.keys.assembled import make_pairwise
from tests.tiny_models import write_adapter

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

PLAIN = [SUBJECTS[TRAINERS[name].label] for name in TRAINERS]
_CONTINUED = {**{key: value for key, value in ADAPTER.items() if key != "lora_dropout"}, "lora_path": "adapter"}
CONTINUED = [Subject("continued SFT", "sft", _CONTINUED), Subject("continued PPO", "ppo", _CONTINUED)]
"""From an adapter whose factors are not zero, with dropout of its own; the policy's base is its reference."""
BOTH = {"reward_model_name_or_path": None, "reward_sources": "compares,reward"}
COMPARED = [
    Subject("compared", "ppo", {"rl_algorithm": "grpo", "reward_model_name_or_path": "compares"}),
    Subject("compared and scored", "ppo", {"rl_algorithm": "grpo", **BOTH}),
]
"""A reward model that compares, alone and beside another; its head is cut, on the last stage, or gathered."""

_KEYS_AHEAD = {"rollout_ahead": 1, "use_kl_loss": True, "use_adaptive_entropy": True, "entropy_target": 9.0}
AHEAD = Subject("ahead", "ppo", _KEYS_AHEAD)
"""Rollouts one step ahead, in one process in a thread; the coefficient of the entropy bonus moves alike."""


def taught(degree: int, **keys: Any) -> Subject:
    """Return a student whose teacher has a layout of its own."""
    return Subject("taught", "kd", {"teacher_tensor_parallel_degree": degree, **keys})


MOST = [subject for subject in SUBJECTS.values() if "rl_algorithm" not in subject.changes or subject.label == "GRPO"]
QUICK = {
    "Sh2 stage3 offload": [*SUBJECTS.values(), *CONTINUED, *COMPARED, AHEAD, taught(2)],
    "TP2xPP2 single": [*MOST, *COMPARED, AHEAD, taught(1)],
    "TP2xSh2 stage1": [
        *PLAIN,
        *CONTINUED,
        SUBJECTS["GRPO"],
        SUBJECTS["PPO-Lagrangian"],
        AHEAD,
        taught(4, teacher_offload=True),
    ],
    "PP2 virtual2": [*PLAIN, *CONTINUED, *COMPARED, SUBJECTS["Gating"], taught(2)],
}
"""Between them every axis, every way of rollout, offloading and a product of two axes. Algorithms differ in what they
make of the rows of all processes, so all of them are where rows are divided.
"""
STEPS = 3
TIMEOUT = 600


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity")
    make_models(folder)
    write_adapter(folder / "adapter", load_causal_lm(folder / "actor"), rank=3, dropout=0.1, std=0.1)
    make_pairwise(folder / "teacher", folder / "compares")
    return folder, References(folder, timeout=TIMEOUT)


def assert_all_agree(found, subjects):
    assert list(found) == [subject.label for subject in subjects]
    refused = {label: str(end) for label, end in found.items() if isinstance(end, UserError)}
    assert not refused
    assert not {label: difference for label, difference in found.items() if not difference.passes()}


@pytest.mark.timeout(2 * TIMEOUT)
@pytest.mark.parametrize("name", QUICK)
def test_layout_gives_the_numbers_of_one_process(name, references):
    folder, known = references
    changes, subjects, batch_ranks = {**LAYOUTS[name], "max_steps": STEPS}, QUICK[name], num_batch_ranks(name)
    found = check_layout(
        folder,
        known,
        changes,
        world_size=num_processes(name),
        batch_ranks=batch_ranks,
        timeout=TIMEOUT,
        subjects=subjects,
    )
    assert_all_agree(found, subjects)
    for subject in subjects:
        output = max(folder.glob(f"layout-*-{subject.label.replace(' ', '-')}"), key=lambda path: path.stat().st_mtime)
        algorithm = ALGORITHMS[subject.changes.get("rl_algorithm", "ppo")]
        if algorithm.needs_cost:
            (alone,) = known.get(batch_ranks, changes, [subject])
            assert_the_multiplier_moves_alike(alone.metrics, list(read_json_lines(output / "metrics.jsonl")))
        if not algorithm.needs_critic:
            assert not list(output.glob("*value")), "no process has a critic"


def assert_the_multiplier_moves_alike(alone, apart):
    """By the same costs in every process."""
    one, other = ([record["train/lambda"] for record in records] for records in (alone, apart))
    assert other == pytest.approx(one, abs=1e-6)
    assert all(value != 1.0 for value in one)


def test_micro_batches_by_tokens_give_the_numbers_of_one_process_without_packing(references):
    """In two pipelines of two stages; sums are in another order, so the numbers agree to rounding."""
    folder, known = references
    packed = {"packing_samples": True, "max_tokens_per_batch": 96, "max_steps": STEPS}
    changes = {**LAYOUTS["PP2"], **packed}
    found = check_layout(folder, known, changes, world_size=4, batch_ranks=2, timeout=TIMEOUT, subjects=PLAIN)
    assert_all_agree(found, PLAIN)
