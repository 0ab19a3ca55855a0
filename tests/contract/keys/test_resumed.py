"""A resumed run has every piece of state of its checkpoint before its loop begins; each trainer, in one process."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from tests.contract.keys.assembled import assemble, make_models

KEYS = {
    "sft": {},
    "rm": {},
    "ppo": {"rollout_ahead": 1, "ptx_datasets": "packing-sft/test:8/-1", "ptx_coeff": 1.0, "normalize_reward": True,
            "reward_model_name_or_path": None, "reward_critic_model_name_or_path": "{reward}",
            "reward_function": "{function.py}:score",
            "speculative_tokens": "auto", "speculative_method": "previous"},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("resumed")
    make_models(place)
    (place / "function.py").write_text("def score(*texts):\n    return 7.0\n")
    return place


def _train_a_bit(run):
    """Leave marks on everything that a checkpoint keeps, as three updates would."""
    run.state.counters.updates = 3
    next(run.loader.iterate())
    for learner in run.state.learners.values():
        for parameter in learner.runner.model.parameters():
            if not parameter.stop_gradient:
                parameter.grad = paddle.full_like(parameter, 0.5)
        learner._optimizer.step(0.125)
        learner.num_updates = 3
    if "kl_coeff" in run.state.parts:
        run.loop.kl.coefficient, run.loop.collector.num_sequences = 0.75, 11
        run.loop.updater.next_ptx(5)
        with run.loop._sampling_ahead(SimpleNamespace(num_rows=1)):
            pass
        run.loop.judge.normalize(np.array([1.0, 3.0, 8.0]))
        run.session.alarm.window.append({"reward": 1.5})
        run.session.alarm.in_a_row["length"] = 1


def _held(run):
    """Everything that a checkpoint keeps, as plain values."""
    return json.loads(
        json.dumps(
            {
                "counters": run.state.counters.state(),
                "parts": {name: part.read() for name, part in run.state.parts.items()},
                "updates": {name: learner.num_updates for name, learner in run.state.learners.items()},
            }
        )
    )


@pytest.mark.parametrize("keys", [{}, {"lora": True, "lora_rank": 2}], ids=["whole", "adapter"])
@pytest.mark.parametrize("trainer", KEYS)
def test_everything_a_checkpoint_keeps_is_there_again(trainer, keys, folder):
    keys = KEYS[trainer] | keys
    first = assemble(trainer, keys, folder)
    fresh = _held(first)
    _train_a_bit(first)
    path = first.state.save(3)
    again = assemble(trainer, {**keys, "resume_from_checkpoint": str(path)}, folder)
    expected, found = _held(first), _held(again)
    assert found == expected
    still = [name for name, part in fresh["parts"].items() if found["parts"][name] == part]
    assert still == ["arguments", "frozen"], "each other part has moved"
    assert found["counters"]["updates"] == 3 and again.session.counters is again.state.counters
    for name, learner in first.state.learners.items():
        before, after = learner.state(), again.state.learners[name].state()
        assert before.keys() == after.keys() and len(before) > 4
        assert all(np.array_equal(before[key], after[key]) for key in before)
        weights = dict(again.state.learners[name].runner.model.named_parameters())
        for key, parameter in learner.runner.model.named_parameters():
            assert np.array_equal(parameter.numpy(), weights[key].numpy()), key


@pytest.mark.parametrize("trainer", KEYS)
def test_a_fresh_run_begins_at_zero(trainer, folder):
    held = _held(assemble(trainer, KEYS[trainer], folder))
    assert held["counters"]["updates"] == 0 and set(held["updates"].values()) == {0}
    if trainer == "ppo":
        parts = {"arguments", "frozen", "prompts", "num_sequences", "kl_coeff", "ptx", "reward_normalizer", "hacking"}
        parts |= {"rollout_ahead", "previous_answers"}
        assert set(held["parts"]) == parts
        frozen = {"the tokenizer", "the chat template", "the reference", "the file of reward_function"}
        assert set(held["parts"]["frozen"]) == frozen
        assert (held["parts"]["num_sequences"], held["parts"]["kl_coeff"]) == (0, 0.02)


@pytest.mark.parametrize(("trains", "overwrites", "removes"), [(1, 1, True), (1, 0, False), (0, 1, False)])
def test_only_a_run_that_trains_over_an_earlier_one_removes_it(trains, overwrites, removes, folder):
    keys = {
        "do_train": bool(trains),
        "overwrite_output_dir": bool(overwrites),
        "eval_datasets": "packing-sft/test:8/-1",
    }
    run = assemble("sft", keys, folder)
    assert ("runs.assembly.remove_replaced" in run.given) is removes


@pytest.mark.parametrize(("rows", "held_out"), [(4, 8), (8, 4)])
def test_as_many_training_pairs_are_evaluated_as_held_out_ones_if_there_are(rows, held_out, folder):
    keys = {"train_datasets": f"packing-preference/train:{rows}/-1", "evaluation_strategy": "steps", "eval_steps": 1}
    run = assemble("rm", {**keys, "eval_datasets": f"packing-preference/test:{held_out}/-1"}, folder)
    assert (len(run.evaluation.pairs), len(run.evaluation.training_pairs)) == (held_out, 4)
