"""Forward passes that are not made twice: what a run learns is the same with them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import runs
from refusals import run_here, train_here, write_rows
from safetensors.numpy import load_file

from alignment.loops.updates import OnPolicyUpdater
from alignment.rollout import logprob_check
from alignment.telemetry.jsonl import read_json_lines

pytestmark = pytest.mark.e2e

SHAPES = {
    "one batch": {"per_device_prompt_batch_size": 8, "per_device_train_batch_size": 16},
    "whitened, four batches": {
        "per_device_prompt_batch_size": 8,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
        "normalize_advantage": True,
        "gae_lambda_value": 1.0,
        "mask_truncated_completions": True,
        "min_dec_len": 1,
    },
}
ON = {"use_rollout_logprobs": True, "values_from_update": True, "logprob_check_rows": 5}
OFF = {"use_rollout_logprobs": False, "values_from_update": False}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_learns_the_same_without_the_passes(shape, ppo_arguments, tmp_path, monkeypatch):
    measured, learned = [], []
    count = logprob_check.measure_logprobs
    monkeypatch.setattr(logprob_check, "measure_logprobs", lambda *a, **o: measured.append(o["rows"]) or count(*a, **o))
    learn = OnPolicyUpdater.learn_values
    monkeypatch.setattr(OnPolicyUpdater, "learn_values", lambda *a: learned.append(learn(*a)) or learned[-1])
    for name, keys in (("on", ON), ("off", OFF)):
        made = {**ppo_arguments, "update_iters": 1, "max_steps": 4, **SHAPES[shape], **keys}
        train_here("ppo", {**made, "output_dir": tmp_path / name}, tmp_path)
    assert [len(rows) for rows in measured] == [5] * 4 and len(learned) == 4
    on, off = (runs.computed(tmp_path / name) for name in ("on", "off"))
    assert_same(on, off)
    for record, other in zip(on, off, strict=True):
        assert record["policy/entropy"] == pytest.approx(other["policy/entropy"], rel=0.5) and record["policy/entropy"]
    for model in ("policy", "value"):
        assert_same_weights(tmp_path, model)


OF_SAMPLE = {"policy/entropy", "rollout/logprob_gap_mean", "rollout/logprob_gap_p99", "rollout/logprob_gap_max"}
OF_DRAFTS = {"rollout/drafted_tokens", "rollout/accepted_drafts", "rollout/tokens_per_pass"}


def assert_same(on, off):
    """Assert that metrics of two runs are the same but for those of what was saved."""
    for record, other in zip(on, off, strict=True):
        assert record.keys() - OF_DRAFTS == other.keys() - OF_DRAFTS
        kept = record.keys() - OF_SAMPLE - OF_DRAFTS
        assert {k: record[k] for k in kept} == pytest.approx({k: other[k] for k in kept}, abs=1e-5, rel=1e-5)


def assert_same_weights(folder, model):
    """Assert that the runs ``on`` and ``off`` in ``folder`` left the same ``model``."""
    weights = [load_file(str(folder / name / model / "model.safetensors")) for name in ("on", "off")]
    for key, value in weights[0].items():
        np.testing.assert_allclose(value, weights[1][key], atol=1e-5, err_msg=key)


def share_of(folder):
    """Return the percent of tokens that the log of a run says were shared."""
    (percent,) = re.findall(r"tokens computed \((\d+)% shared", (folder / "run.log").read_text())
    return int(percent)


@pytest.mark.parametrize("algorithm", ["rloo", "reinforce_plus_plus_baseline", "remax"])
def test_an_algorithm_without_a_critic_learns_the_same(algorithm, ppo_arguments, tmp_path):
    rows = {"train_datasets": "packing-prompts/train:2/-1", "per_device_prompt_batch_size": 2}
    rows |= {"num_return_sequences": 4, "max_dec_len": 24, "temperature": 0.1, "update_iters": 1, "max_steps": 6}
    made = {**ppo_arguments, **rows, "rl_algorithm": algorithm, "normalize_reward": False}
    drafts = {"speculative_tokens": 3, "speculative_method": "previous"}
    drafts |= {"use_rollout_logprobs": True, "logprob_check_rows": 3}
    plain = {"use_rollout_logprobs": False, "share_prefixes": False}
    for name, keys in (("on", drafts), ("off", plain)):
        train_here("ppo", {**made, **keys, "output_dir": tmp_path / name}, tmp_path)
    on, off = (runs.computed(tmp_path / name) for name in ("on", "off"))
    assert_same(on, off)
    assert_same_weights(tmp_path, "policy")
    on_samples, off_samples = (read_json_lines(tmp_path / name / "samples.jsonl") for name in ("on", "off"))
    for row, other in zip(on_samples, off_samples, strict=True):
        assert row == pytest.approx(other, abs=1e-5)
    assert share_of(tmp_path / "on") > 10
    assert sum(record["rollout/accepted_drafts"] for record in on) > 0


def test_dialogues_that_begin_alike_are_learned_the_same(sft_arguments, tmp_path):
    """Answers of earlier turns that rows share count in none of them; some rows differ in their label alone."""
    first = [{"role": "user", "content": "pack rope lamp map"}, {"role": "assistant", "content": "rope lamp map done"}]
    asked = [[*first, {"role": "user", "content": f"pack {words}"}] for words in ("boots tent", "boots coat", "rope")]
    answers = ("boots tent done", "rope", "boots tent done")
    rows = [
        {"prompt": prompt, "completion": [{"role": "assistant", "content": answer}], "label": label}
        for prompt in asked
        for answer, label in zip(answers, (True, False, False), strict=True)
    ]
    write_rows(tmp_path / "rows.jsonl", *rows, *rows)
    made = {**sft_arguments, "train_datasets": f"jsonl:1:{tmp_path / 'rows.jsonl'}", "max_steps": 4}
    for name, keys in (("on", {}), ("off", {"share_prefixes": False})):
        train_here("kto", {**made, **keys, "output_dir": tmp_path / name}, tmp_path)
    assert_same(*(runs.computed(tmp_path / name) for name in ("on", "off")))
    assert_same_weights(tmp_path, "policy")
    assert share_of(tmp_path / "on") > 40


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"values_from_update": True, "update_iters": 2}, "each rollout is 4 updates"),
        ({"use_rollout_logprobs": True, "on_logprob_gap": "recompute"}, "need the trainer's log-probs"),
        ({"use_rollout_logprobs": True, "rollout_ahead": 1}, "has been updated since"),
        ({"use_rollout_logprobs": True, "rl_algorithm": "dapo", "num_return_sequences": 2}, "drops responses"),
    ],
)
def test_what_cannot_be_saved_is_refused(keys, says, ppo_arguments, tmp_path):
    done = run_here("ppo", {**ppo_arguments, **keys, "output_dir": tmp_path / "out"}, tmp_path)
    assert done.returncode != 0 and says in done.stderr
