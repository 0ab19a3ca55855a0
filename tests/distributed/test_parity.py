"""Every trainer gives in every layout the numbers of one process; ``make test-distributed`` shows all."""

from __future__ import annotations

import json
import shutil

import pytest

from alignment.errors import UserError
from alignment.models.config import read_config
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.folders.hub import load_causal_lm
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.parity.check import References, check_layout
from alignment.parity.layouts import LAYOUTS, num_batch_ranks, num_processes
from alignment.parity.subjects import LARGE_STD, make_models
from alignment.telemetry.jsonl import read_json_lines
from alignment.trainers.registered import TRAINERS
from tests.contract.keys.assembled import make_pairwise
from tests.tiny_models import write_adapter

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

QUICK = ("Sh2 stage3 offload", "TP2xPP2 single", "TP2xSh2 stage1", "PP2 virtual2")
"""Between them every axis, every way of rollout, offloading and a product of two axes."""


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity")
    make_models(folder)
    return folder, References(folder, timeout=300)


@pytest.mark.parametrize("name", QUICK)
def test_layout_gives_the_numbers_of_one_process(name, references):
    folder, known = references
    found = check_layout(
        folder,
        known,
        {**LAYOUTS[name], "max_steps": 3},
        world_size=num_processes(name),
        batch_ranks=num_batch_ranks(name),
        timeout=300,
    )
    assert list(found) == list(TRAINERS)
    for trainer, difference in found.items():
        assert not isinstance(difference, UserError), difference
        assert difference.passes(), f"{trainer}: {difference}"


def test_micro_batches_by_tokens_give_the_numbers_of_one_process_without_packing(references):
    """In two pipelines of two stages; sums are in another order, so the numbers agree to rounding."""
    folder, known = references
    packed = {"packing_samples": True, "max_tokens_per_batch": 96, "max_steps": 3}
    found = check_layout(folder, known, {**LAYOUTS["PP2"], **packed}, world_size=4, batch_ranks=2, timeout=300)
    assert list(found) == list(TRAINERS)
    for trainer, difference in found.items():
        assert not isinstance(difference, UserError), difference
        assert difference.passes(), f"{trainer}: {difference}"


def test_label_smoothing_over_a_split_vocabulary_gives_the_numbers_of_one_process(references):
    folder, known = references
    smoothed = {"label_smoothing": 0.2, "max_steps": 3}
    found = check_layout(
        folder, known, {**LAYOUTS["TP2xPP2"], **smoothed}, world_size=4, batch_ranks=1, timeout=300, trainers=["sft"]
    )["sft"]
    assert not isinstance(found, UserError), found
    assert found.passes(), found


TEACHERS = {
    "whole beside TP2": ("TP2", 2, 1, {"teacher_tensor_parallel_degree": 1}),
    "TP2 beside DP2": ("DP2", 2, 2, {"teacher_tensor_parallel_degree": 2}),
    "TP4 beside PP2xSh2": ("PP2xSh2 stage2", 4, 2, {"teacher_tensor_parallel_degree": 4, "teacher_offload": True}),
}


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_in_a_layout_of_its_own_gives_the_numbers_of_one_process(name, references):
    folder, known = references
    layout, world_size, batch_ranks, keys = TEACHERS[name]
    changes = {**LAYOUTS[layout], **keys, "max_steps": 3}
    options = {"world_size": world_size, "batch_ranks": batch_ranks, "timeout": 300}
    found = check_layout(folder, known, changes, **options, trainers=["kd"])["kd"]
    assert not isinstance(found, UserError), found
    assert found.passes(), found


REWARD_KINDS = {
    "regression": {
        "train_datasets": "packing-attributes/train:200/-1",
        "objective": "regression",
        "attributes": ["coverage", "excess", "closed", "chatter"],
        "regularization": 0.0,
    },
    "average": {"loss_type": "average", "center_rewards_coefficient": 0.01},
    "head": {"train_head_only": True, "recompute": True},
    "process": {
        "train_datasets": "packing-steps/train:200/-1",
        "objective": "process",
        "placeholder_token": "and",
        "regularization": 0.0,
    },
    "gating": {"objective": "gating", "model_name_or_path": "attributes", "gating_hidden_size": 6},
}


@pytest.mark.parametrize("kind", REWARD_KINDS)
def test_a_kind_of_reward_model_gives_the_numbers_of_one_process(kind, references):
    folder, known = references
    assert_reward_model_agrees(folder, known, kind, "TP2xPP2")


@pytest.mark.parametrize("layout", ["PP2 virtual2", "Sh2 stage3 offload"])
def test_a_gating_network_gives_the_numbers_of_one_process(layout, references):
    """Whatever the layout, most processes or rows have little or nothing to train: the rest is frozen."""
    folder, known = references
    assert_reward_model_agrees(folder, known, "gating", layout)


def assert_reward_model_agrees(folder, known, kind, name):
    """Compare a kind of reward model in a layout; a gating network is put on a model with two attributes."""
    if not (folder / "attributes").exists():
        raw = read_config(folder / "reward")
        model = ScoreModel(raw, ScoreOptions(labels=("a", "b")))
        draw_weights(model, seed=4, std=LARGE_STD)
        save_model(folder / "attributes", model, load_tokenizer(folder / "reward"))
    found = check_layout(
        folder,
        known,
        {**LAYOUTS[name], **REWARD_KINDS[kind], "max_steps": 3},
        world_size=num_processes(name),
        batch_ranks=num_batch_ranks(name),
        timeout=300,
        trainers=["rm"],
    )["rm"]
    assert not isinstance(found, UserError), found
    assert found.passes(), found


@pytest.mark.parametrize("name", ["TP2xSh2 stage3", "PP2 virtual2"])
def test_adapters_give_the_numbers_of_one_process(name, references):
    """From an adapter whose factors are not zero, with dropout; the policy's base is its reference.

    The critic's B starts at zero, where Adam would turn gradients as small as their rounding into whole steps: hence
    its large epsilon.
    """
    folder, known = references
    if not (folder / "adapter").exists():
        write_adapter(folder / "adapter", load_causal_lm(folder / "actor"), rank=3, dropout=0.1, std=0.1)
    keys = {"lora": True, "lora_path": "adapter", "recompute": True, "adam_epsilon": 1e-3, "max_steps": 2}
    found = check_layout(
        folder,
        known,
        {**LAYOUTS[name], **keys},
        world_size=num_processes(name),
        batch_ranks=num_batch_ranks(name),
        timeout=300,
        trainers=["sft", "ppo"],
    )
    for trainer, difference in found.items():
        assert not isinstance(difference, UserError), difference
        assert difference.passes(), f"{trainer}: {difference}"


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce_plus_plus"])
def test_an_algorithm_without_critic_gives_the_numbers_of_one_process(name, references):
    """Groups of responses, the KL in the loss and in the reward; no process has a critic."""
    folder, known = references
    chosen = {"rl_algorithm": name, "kl_coeff": 0.05, "kl_loss_coeff": 0.1, "max_steps": 3}
    found = check_layout(
        folder,
        known,
        {**LAYOUTS["TP2xSh2 stage1"], **chosen},
        world_size=4,
        batch_ranks=2,
        timeout=300,
        trainers=["ppo"],
    )["ppo"]
    assert not isinstance(found, UserError), found
    assert found.passes() and found.logprob < 1e-5, found
    assert sorted(path.name for path in folder.glob(f"layout-*{name}*-ppo/[pv]*") if path.is_dir()) == ["policy"]


@pytest.mark.parametrize("name", ["Sh2 stage3 offload", "TP2xPP2 single", "TP2xSh2 stage1"])
def test_a_cost_model_and_two_critics_give_the_numbers_of_one_process(name, references):
    """The multiplier moves by the same costs in every process; critics, cost model and policy are cut or offloaded."""
    folder, known = references
    if not (folder / "cost").exists():
        shutil.copytree(folder / "reward", folder / "cost")
        config = json.loads((folder / "cost" / "config.json").read_text())
        (folder / "cost" / "config.json").write_text(json.dumps({**config, "score_type": "cost"}))
    keys = {"rl_algorithm": "ppo_lagrangian", "cost_model_name_or_path": "cost", "threshold": -0.5, "max_steps": 3}
    found = check_layout(
        folder,
        known,
        {**LAYOUTS[name], **keys},
        world_size=num_processes(name),
        batch_ranks=num_batch_ranks(name),
        timeout=300,
        trainers=["ppo"],
    )["ppo"]
    assert not isinstance(found, UserError), found
    assert found.passes(), found
    written = {path.parent.name: list(read_json_lines(path)) for path in folder.glob("*-ppo/metrics.jsonl")}
    runs = {name: [r["train/lambda"] for r in rs] for name, rs in written.items() if "train/lambda" in rs[0]}
    alone = [values for run, values in runs.items() if run.startswith("one-")]
    apart = [values for run, values in runs.items() if run.startswith("layout-")]
    assert apart and all(any(other == pytest.approx(one, abs=1e-6) for other in alone) for one in apart)
    assert all(value != 1.0 for one in apart for value in one)


BESIDE_ANOTHER = {"reward_model_name_or_path": None, "reward_sources": "compares,reward"}


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("Sh2 stage3 offload", BESIDE_ANOTHER),
        ("TP2xPP2 single", {"reward_model_name_or_path": "compares"}),
        ("PP2 virtual2", BESIDE_ANOTHER),
    ],
)
def test_a_reward_model_that_compares_gives_the_numbers_of_one_process(name, chosen, references):
    """Its head is gathered, cut, or on the last stage only."""
    folder, known = references
    if not (folder / "compares").exists():
        make_pairwise(folder / "teacher", folder / "compares")
    found = check_layout(
        folder,
        known,
        {**LAYOUTS[name], **chosen, "rl_algorithm": "grpo", "max_steps": 3},
        world_size=num_processes(name),
        batch_ranks=num_batch_ranks(name),
        timeout=300,
        trainers=["ppo"],
    )["ppo"]
    assert not isinstance(found, UserError), found
    assert found.passes(), found
