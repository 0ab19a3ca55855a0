"""Terms added to a score teach what they are for: here the score itself is the same for every response."""

from __future__ import annotations

import numpy as np
import pytest
import runs
from refusals import train_here

pytestmark = pytest.mark.e2e

CONSTANT = """
def constant(inputs, responses, labels):
    return [1.0] * len(responses)
"""


MISSING_EOS = {"missing_eos_penalty": 1.0}
FORMAT = {"reward_format_pattern": ".*done", "reward_format_weight": 0.5}
STOP_PROPERLY = {"stop_properly_penalty_coef": 0.2}
LENGTH = {"length_penalty_coeff": 0.05}
OVERLONG = {"enable_overlong_reward_buffer": True, "overlong_reward_buffer": 6}


@pytest.mark.parametrize(
    ("terms", "gained", "most_tokens"),
    [
        # Mean of each term over the first three and the last three rollouts, of 32 responses of up to 8 tokens.
        ({**MISSING_EOS, **FORMAT}, {"missing_eos": (-0.7, -0.03), "format": (0.04, 0.15)}, 4.0),
        ({**STOP_PROPERLY, **LENGTH}, {"stop_properly": (-0.55, -0.03), "length": (-0.34, -0.12)}, 2.5),
        (OVERLONG, {"overlong": (-0.8, -0.05)}, 2.5),
    ],
    ids=["ended and in format", "ended and short", "before the limit"],
)
def test_a_term_teaches_what_it_pays_for(sft_folder, tmp_path, terms, gained, most_tokens):
    (tmp_path / "rewards.py").write_text(CONSTANT)
    made = {
        **runs.COMMON,
        **terms,
        "rl_algorithm": "grpo",
        "actor_model_name_or_path": sft_folder / "policy",
        "reward_function": "rewards.py:constant",
        "train_datasets": "packing-prompts/train:400/-1",
        "per_device_prompt_batch_size": 8,
        "num_return_sequences": 4,
        "per_device_train_batch_size": 32,
        "max_dec_len": 8,
        "max_steps": 20,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "kl_loss_coeff": 0.0,
        "output_dir": tmp_path / "out",
    }
    train_here("ppo", made, tmp_path)
    records = [record for record in runs.metrics(tmp_path / "out") if "train/reward" in record]
    for name, (first, last) in gained.items():
        paid = [record[f"reward/{name}_term"] for record in records]
        assert np.mean(paid[:3]) < first and np.mean(paid[-3:]) > last, (name, paid)
    lengths = [record["train/mean_generated_length"] for record in records]
    assert lengths[0] > 7 and np.mean(lengths[-3:]) < most_tokens
    assert all(record["train/reward"] == pytest.approx(1.0) for record in records), "the score itself teaches nothing"
