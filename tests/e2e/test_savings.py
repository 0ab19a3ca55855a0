"""Forward passes that are not made twice: what a run learns is the same with them."""

from __future__ import annotations

import numpy as np
import pytest
import runs
from refusals import run_here, train_here
from safetensors.numpy import load_file

from alignment.loops.updates import OnPolicyUpdater
from alignment.rollout import logprob_check

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
    of_sample = {"policy/entropy", "rollout/logprob_gap_mean", "rollout/logprob_gap_p99", "rollout/logprob_gap_max"}
    for record, other in zip(on, off, strict=True):
        assert record.keys() == other.keys()
        kept = record.keys() - of_sample
        assert {k: record[k] for k in kept} == pytest.approx({k: other[k] for k in kept}, abs=1e-5, rel=1e-5)
        assert record["policy/entropy"] == pytest.approx(other["policy/entropy"], rel=0.5) and record["policy/entropy"]
    for model in ("policy", "value"):
        weights = [load_file(str(tmp_path / name / model / "model.safetensors")) for name in ("on", "off")]
        for key, value in weights[0].items():
            np.testing.assert_allclose(value, weights[1][key], atol=1e-5, err_msg=key)


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
