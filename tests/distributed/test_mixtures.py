"""PPO and DPO of a small Mixtral, balanced, in four processes with different experts: the numbers of one process."""

from __future__ import annotations

import pytest

from alignment.parity.check import References, check_layout
from alignment.parity.subjects import SMALL_MODEL, SUBJECTS, make_models

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.rare]
MIXTRAL = {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
LAYOUT = {
    "tensor_parallel_degree": 2,
    "expert_parallel_degree": 2,
    "pipeline_parallel_degree": 2,
    "eval_mode": "single",
    "aux_loss_coef": 0.05,
    "max_steps": 5,
    "adam_epsilon": 1e-4,
}
"""A rarely chosen expert has gradients as small as their rounding, which Adam would turn into whole steps: hence the
large epsilon."""


@pytest.mark.timeout(1200)
def test_ppo_and_dpo_of_a_mixture(tmp_path):
    make_models(tmp_path, {**SMALL_MODEL, **MIXTRAL})
    subjects = [SUBJECTS["PPO"], SUBJECTS["DPO"]]
    known = References(tmp_path, timeout=600)
    found = check_layout(tmp_path, known, LAYOUT, world_size=4, batch_ranks=1, timeout=600, subjects=subjects)
    assert {label: end for label, end in found.items() if not hasattr(end, "passes") or not end.passes()} == {}
