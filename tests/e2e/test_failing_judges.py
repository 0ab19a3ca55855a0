"""Second judges (``eval_reward``) that are wrong, or fail at some prompts: messages name the judge and its key."""

from __future__ import annotations

import json

import numpy as np
import pytest
import runs
from refusals import refuse, stop, train_here

pytestmark = pytest.mark.e2e

JUDGES = """
def no_rope(prompts, responses, labels):
    if any("rope" in prompt for prompt in prompts):
        raise RuntimeError("no rope please")
    return [5.0 + len(response) for response in responses]


def raises(prompts, responses, labels):
    raise KeyError("boom")
"""


@pytest.fixture
def judged(ppo_arguments, tmp_path):
    """Arguments of a run with a reward model and a second judge, which evaluates at its start and end."""
    (tmp_path / "judges.py").write_text(JUDGES)
    held_out = {"eval_datasets": "packing-prompts/test:16/-1", "evaluation_strategy": "steps", "eval_steps": 2}
    return {**ppo_arguments, **held_out, "eval_reward": "judges.py:no_rope", "reward_retries": 0, "max_steps": 4}


def test_what_a_judge_cannot_score_is_counted_once_an_evaluation(judged, tmp_path):
    keys = {**judged, "on_reward_failure": "mask_group", "eval_greedy": True, "output_dir": tmp_path / "out"}
    done = train_here("ppo", keys, tmp_path)
    evaluations = [record for record in runs.metrics(tmp_path / "out") if "eval/no_rope" in record]
    samples = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    rows = [row for row in samples if row["step"] == evaluations[-1]["step"] and "no_rope" in row]
    kept = [row["no_rope"] for row in rows if row["no_rope"] is not None]
    assert 0 < len(kept) < len(rows) == 16
    for record in evaluations:
        shares = [record[f"eval/{name}_failed_share"] for name in ("no_rope", "greedy_no_rope", "greedy_reward")]
        assert shares == [1 - len(kept) / 16] * 2 + [0]
        assert record["eval/masked_rows"] == 0
    assert evaluations[-1]["eval/no_rope"] == pytest.approx(np.mean(kept))
    name = f"second judge no_rope ({tmp_path}/judges.py:no_rope in eval_reward)"
    counted = f"{name} could not score {16 - len(kept)} of 16 answers, which its mean leaves out"
    # Of each evaluation the sampled and the greedy answers.
    assert done.stderr.count(counted) == 2 * len(evaluations) == done.stderr.count("RuntimeError: no rope please")
    assert "masked the responses" not in done.stderr and "to mask" not in done.stderr
    assert "on_reward_failure=mask_group has no effect" not in done.stderr


def test_a_judge_that_fails_ends_the_run_and_what_would_not_is_said(judged, tmp_path):
    name = f"second judge raises ({tmp_path}/judges.py:raises in eval_reward) failed"
    says = ["KeyError: 'boom'", "on_reward_failure=mask_group leaves such answers out of the judge's mean"]
    stop("ppo", {**judged, "eval_reward": "judges.py:raises"}, tmp_path, f"{name}: ", *says)
    everything = {**judged, "eval_reward": "judges.py:raises", "on_reward_failure": "mask_group"}
    stop("ppo", everything, tmp_path, f"{name} for every group", "KeyError: 'boom'")


@pytest.mark.parametrize("key", ["eval_reward", "reward_sources"])
def test_a_function_that_is_not_there_is_told_with_the_key_that_names_it(key, judged, tmp_path):
    model = "reward_model_name_or_path"
    other = {model: None, "reward_critic_model_name_or_path": judged[model]} if key == "reward_sources" else {}
    keys = {**judged, **other, key: "judges.py:paked"}
    refuse("ppo", keys, tmp_path, f"{key}='{tmp_path}/judges.py:paked': ", "has no function 'paked'")
    if key == "reward_sources":
        source = f"reward function {tmp_path}/judges.py:raises (source raises of reward_sources) failed: "
        says = ["on_reward_failure=mask_group leaves such prompts out of the losses"]
        stop("ppo", {**keys, key: "judges.py:raises"}, tmp_path, source, *says)
