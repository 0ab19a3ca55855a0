"""The balancing loss of experts and its gradients against transformers, in whatever micro-batches and precision."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.models.folders.hub import load_causal_lm
from alignment.parallel.dense import DenseRunner
from alignment.parallel.runner import Objective
from alignment.parallel.topology import Topology
from alignment.records import Loss, TokenBatch
from alignment.training.expert_balance import BalancingLoss

pytestmark = pytest.mark.interop
SHAPE = dict(
    vocab_size=64, hidden_size=32, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, attn_implementation="eager",
    num_experts_per_tok=2, num_local_experts=5, router_aux_loss_coef=0.7,
)  # fmt: skip
LENGTHS = [9, 3, 6, 2]
ROWS = [np.random.default_rng(0).integers(3, 64, length) for length in LENGTHS]


def batches(cuts):
    parts = np.split(np.arange(4), cuts)
    return [TokenBatch.build([ROWS[i] for i in part], [np.arange(1, LENGTHS[i]) for i in part]) for part in parts]


def nothing(model, batch):
    """An objective that is always 0, so that only the balancing loss has gradients."""
    return model.model.at(batch, batch.target_rows, batch.target_positions - 1)


OBJECTIVE = Objective(nothing, lambda hidden, batch: Loss((hidden * 0.0).sum(), {}))


def run(folder, cuts, recompute=False):
    model = load_causal_lm(folder)
    model.model.recompute = recompute
    runner = DenseRunner(model)
    balancing = BalancingLoss("policy", runner, Topology(device="cpu"))
    balancing.begin(batches(cuts), 0.7)
    runner.forward_backward(batches(cuts), OBJECTIVE)
    found = {name: float(metric.value) for name, metric in balancing.finish(batches(cuts)).items()}
    return found, {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}


def test_the_loss_and_its_gradients_are_those_of_transformers(torch, transformers, tmp_path):
    peer = transformers.MixtralForCausalLM(transformers.MixtralConfig(**SHAPE))
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    peer.save_pretrained(tmp_path / "model")
    ids = torch.zeros([4, 9], dtype=torch.long)
    mask = torch.zeros([4, 9], dtype=torch.long)
    for row, values in enumerate(ROWS):
        ids[row, : len(values)], mask[row, : len(values)] = torch.tensor(values), 1
    wanted = peer(input_ids=ids, attention_mask=mask, output_router_logits=True).aux_loss
    (0.7 * wanted).backward()
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    peer.save_pretrained(tmp_path / "gradients")
    gradients = dict(load_causal_lm(tmp_path / "gradients").named_parameters())
    for how in ({"cuts": []}, {"cuts": [1, 3]}, {"cuts": [2], "recompute": True}):
        metrics, found = run(tmp_path / "model", **how)
        assert metrics["policy/balancing_loss"] == pytest.approx(float(wanted), rel=1e-5)
        assert 1 < metrics["policy/load_max"] < 5 and 0 < metrics["policy/load_entropy"] < 1
        for name, parameter in gradients.items():
            mine = found.get(name, np.zeros(parameter.shape, np.float32))
            np.testing.assert_allclose(mine, parameter.numpy(), atol=1e-6, rtol=1e-4, err_msg=name)
        assert np.abs(found["model.layers.2.block_sparse_moe.gate.weight"]).max() > 1e-4


def test_without_a_coefficient_nothing_is_added_and_loads_are_measured(torch, transformers, tmp_path):
    transformers.MixtralForCausalLM(transformers.MixtralConfig(**SHAPE)).save_pretrained(tmp_path)
    model = load_causal_lm(tmp_path)
    runner = DenseRunner(model)
    balancing = BalancingLoss("policy", runner, Topology(device="cpu"))
    for cuts in ([], [2]):
        balancing.begin(batches(cuts), 0.0)
        runner.forward_backward(batches(cuts), OBJECTIVE)
        assert balancing._totals()[0].sum() == 3 * 2 * sum(LENGTHS)
    assert all(not paddle.any(p.grad) for p in model.parameters() if p.grad is not None)
