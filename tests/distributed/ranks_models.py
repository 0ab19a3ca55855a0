"""What each rank does in ``test_tensor_models.py``; the reference is the same work in one process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle

from alignment.architecture.cuts import gradient_is_partial, tensor_copies
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.layout import Layout
from alignment.models.decoder import split_vocabulary
from alignment.models.decoder.balancing import ExpertBalance
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.logprobs import policy_logprobs, token_values
from alignment.models.decoder.placement import WHOLE, Placement
from alignment.models.decoder.replay import ExpertReplay
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.decoder.split_vocabulary import VocabularyShare, split_argmax
from alignment.models.folders import hub
from alignment.ops import pieces
from alignment.parallel.comms.group import Group
from alignment.parallel.initialise import initialise
from alignment.parallel.tensor.regions import sum_over_copies
from alignment.records import NO_EXPERT, TokenBatch
from tests.tiny_models import in_own_names

SHAPE = {
    "vocab_size": 43,
    "hidden_size": 32,
    "intermediate_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def make_batch(case: dict | None = None) -> TokenBatch:
    """Return three rows of 9, 2 and 6 tokens: 17 in all, which no number of ranks divides.

    Where ``case`` replays experts, two of five are drawn for each token and layer, but for some without a record.
    """
    random = np.random.default_rng(0)
    rows = [random.integers(0, SHAPE["vocab_size"], length) for length in (9, 2, 6)]
    batch = TokenBatch.build(rows, [np.arange(3, 9), np.array([1]), np.arange(2, 6)])
    if not (case or {}).get("replays"):
        return batch
    experts = random.permuted(np.tile(np.arange(5, dtype=np.uint8), (3, 9, 2, 1)), axis=3)[..., :2]
    experts[:, 4] = NO_EXPERT["uint8"]
    return replace(batch, routed_experts=experts)


def build(case: dict, placement: Placement = WHOLE) -> CausalLM | ScoreModel:
    """Return the model of ``case`` in training mode."""
    config = DecoderConfig.from_dict(in_own_names({**SHAPE, **case["config"]}))
    dtype = case.get("dtype", "float32")
    if case.get("kind") == "score":
        model = ScoreModel(config, ScoreOptions(score_bias=True), dtype=dtype, placement=placement)
    else:
        model = CausalLM(config, dtype=dtype, placement=placement)
    draw_weights(model, seed=3, std=0.3)
    model.train()
    if model.config.experts is not None:
        model.model.balance = ExpertBalance(model.config.experts, model.config.num_hidden_layers)
        model.model.balance.slopes = np.linspace(0.5, -0.5, model.config.experts.count)
    if case.get("replays"):
        model.model.replay = ExpertReplay()
    if "recompute" in case:
        model.model.recompute, model.model.recompute_granularity = True, case["recompute"]
    return model


def backward(model: CausalLM | ScoreModel, batch: TokenBatch) -> dict[str, np.ndarray]:
    """Run forward and backward; return what the forward pass gave."""
    if isinstance(model, ScoreModel):
        values = token_values(model, batch)
        (values * values).sum().backward()
        return {"values": values.numpy()}
    logprobs, entropies = policy_logprobs(model, batch, temperature=0.7, with_entropy=True)
    (logprobs * logprobs + 0.3 * entropies).sum().backward()
    return {"logprobs": logprobs.numpy(), "entropies": entropies.numpy()}


def run_all(layout: Layout, cases: list[dict], folders: dict[str, str]) -> dict:
    """Return what this rank computed in every case, with whole and with split tokens, and from the folders."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    placements = [replace(Placement.of(topology), sequence_parallel=flag) for flag in (False, True)]
    return {
        "cases": [[run_case(case, placement) for case in cases] for placement in placements],
        "folders": {name: load_and_choose(placements[0], folder) for name, folder in folders.items()},
        "head": head_in_pieces(topology.tensor),
    }


def run_case(case: dict, placement: Placement) -> dict:
    """Return what this rank computed, and its gradients with the parts they belong to."""
    model = build(case, replace(placement, expert_degree=case.get("expert_degree", 1)))
    outputs = backward(model, make_batch(case))
    gradients = {name: (model.parts[name], _finish(model, name, p)) for name, p in model.named_parameters()}
    return {"outputs": outputs, "gradients": gradients}


def _finish(model: CausalLM | ScoreModel, name: str, parameter: paddle.Tensor) -> np.ndarray:
    config, placement = model.config, model.placement
    degree, gradient = placement.tensor.size, parameter.grad
    if gradient_is_partial(name, config, tensor_degree=degree, sequence_parallel=placement.sequence_parallel):
        copies = tensor_copies(name, config, tensor_degree=degree)
        gradient = sum_over_copies(gradient, placement.tensor, copies=copies)
    return gradient.numpy()


def load_and_choose(placement: Placement, folder: str) -> dict:
    """Return the weights read from ``folder``, and the likeliest token at each place of the batch."""
    model, batch = hub.load_causal_lm(Path(folder), placement=placement), make_batch()
    with paddle.no_grad():
        logits = model(batch.input_ids, lengths=batch.lengths)
    share = VocabularyShare(placement.tensor, model.first_token)
    chosen = split_argmax(logits.reshape([-1, logits.shape[2]]), share).numpy()
    ties = split_argmax(paddle.zeros([2, logits.shape[2]]), share).numpy()
    weights = {name: (model.parts[name], p.numpy()) for name, p in model.named_parameters()}
    return {"weights": weights, "chosen": chosen, "ties": ties}


def head_in_pieces(group: Group) -> dict:
    """Return log-probs, entropies and gradients of a split head whose logits are made in pieces."""
    pieces.LOGIT_BYTES = 256
    case = head_case()
    first, last = ((group.index + i) * 30 // group.size for i in (0, 1))
    hidden, weight = (paddle.to_tensor(case[name], stop_gradient=False) for name in ("hidden", "weight"))
    part = weight.detach()[:, first:last].contiguous()
    part.stop_gradient = False
    logprobs, entropies = split_vocabulary.split_logprobs(
        hidden, part, paddle.to_tensor(case["targets"]), share=VocabularyShare(group, first), with_entropy=True
    )
    (logprobs * paddle.to_tensor(case["slopes"]) + entropies).sum().backward()
    return {
        "logprobs": logprobs.numpy(),
        "entropies": entropies.numpy(),
        "hidden": hidden.grad.numpy(),
        "columns": (first, last),
        "weight": part.grad.numpy(),
    }


def head_case() -> dict[str, np.ndarray]:
    """Return float64 inputs of a head with 30 tokens in the vocabulary."""
    random = np.random.default_rng(5)
    return {
        "hidden": random.standard_normal((11, 8)),
        "weight": random.standard_normal((8, 30)),
        "targets": random.integers(0, 30, 11),
        "slopes": random.standard_normal(11),
    }
