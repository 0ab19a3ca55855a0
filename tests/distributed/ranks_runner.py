"""What each rank does in ``test_runner.py``: one pass of every kind through a small model in some layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from alignment.algorithms.bradley_terry import BradleyTerryHyperparameters
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.layout import Layout
from alignment.metrics import Metric
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.logprobs import policy_logprobs, to_grid, token_values
from alignment.models.decoder.placement import Placement
from alignment.models.decoder.replay import ExpertReplay
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.parallel.build_runner import build_runner
from alignment.parallel.initialise import initialise
from alignment.parallel.runner import ModelRunner, Objective
from alignment.parallel.topology import Topology
from alignment.records import NO_EXPERT, Loss, TokenBatch
from alignment.runs.offline.pairs import REWARD_PAIRS, pair_batch
from alignment.runs.offline.train import build_task
from alignment.trainers.objectives import REWARD
from alignment.training.expert_balance import BalancingLoss
from alignment.training.objectives import critic_objective, policy_objective

VOCABULARY = 53


def small_config(*, tied: bool = False, **changes: Any) -> DecoderConfig:
    """Return a model of eight layers, so that every layout in the test has some for each chunk."""
    return DecoderConfig.from_dict(
        {
            "model_type": "qwen2",
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 8,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "tie_word_embeddings": tied,
            **changes,
        }
    )


def ragged_batches(count: int) -> list[TokenBatch]:
    """Return micro-batches of one to three rows of unlike lengths, with fields for every objective."""
    generator = np.random.default_rng(5)
    batches = []
    for _ in range(count):
        rows = [generator.integers(0, VOCABULARY, generator.integers(4, 12)) for _ in range(generator.integers(1, 4))]
        targets = [np.arange(generator.integers(1, 3), len(row)) for row in rows]
        shape = (len(rows), max(map(len, targets)))
        advantages = generator.normal(size=shape).astype(np.float32)
        fields = dict.fromkeys(("advantages", "values", "returns"), advantages)
        batches.append(TokenBatch.build(rows, targets, fields))
    return batches


def pair_batches(count: int) -> list[TokenBatch]:
    """Return micro-batches of one or two pairs of answers."""
    generator = np.random.default_rng(6)

    def sample() -> dict[str, Any]:
        sides = {
            f"{s}_input_ids": generator.integers(0, VOCABULARY, generator.integers(4, 12)) for s in ("better", "worse")
        }
        return {**sides, "prompt_length": 2}

    return [pair_batch([sample() for _ in range(1 + index % 2)], REWARD_PAIRS) for index in range(count)]


def policy_task(count: int) -> tuple[list[TokenBatch], Any]:
    """Return micro-batches and what makes the objective of a model: log-probs and entropies."""

    def loss(logprobs: Any, fields: Any, *, entropy: Any) -> Loss:
        value = -(logprobs * fields["advantages"] + 0.1 * entropy).sum() / 40.0
        return Loss(value, {"policy": Metric(value.detach()), "low": Metric(logprobs.min().detach(), "min")})

    return ragged_batches(count), lambda model: policy_objective(loss, temperature=0.7, with_entropy=True)


def expert_task(count: int) -> tuple[list[TokenBatch], Any]:
    """Return those of ``policy_task`` with experts to replay: two of five drawn for most tokens, none for others."""
    batches, make = policy_task(count)
    generator, recorded = np.random.default_rng(7), []
    for batch in batches:
        five = np.tile(np.arange(5, dtype=np.uint8), (*batch.input_ids.shape, 8, 1))
        experts = generator.permuted(five, axis=3)[..., :2]
        experts[:, 2] = NO_EXPERT["uint8"]
        recorded.append(replace(batch, routed_experts=experts))
    return recorded, make


def value_task(count: int) -> tuple[list[TokenBatch], Any]:
    """Return micro-batches and what makes the objective of a model: values."""

    def loss(values: Any, fields: Any) -> Loss:
        value = (((values - fields["advantages"]) ** 2) * fields["response_mask"]).sum() / 40.0
        return Loss(value, {"value": Metric(value.detach())})

    return ragged_batches(count), lambda model: critic_objective(loss)


def pair_task(count: int) -> tuple[list[TokenBatch], Any]:
    """Return micro-batches and what makes the objective of a model: scores of pairs."""
    batches = pair_batches(count)

    def make(model: Any) -> Objective:
        return build_task(REWARD, BradleyTerryHyperparameters(), model=model).make_objective(batches)

    return batches, make


TASKS = {
    "policy": ("causal", policy_task),
    "value": ("score", value_task),
    "pairs": ("score", pair_task),
    "experts": ("experts", expert_task),
}
EXPERTS = {
    "model_type": "qwen2_moe",
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 8,
    "mlp_only_layers": [3],
}


def build_model(kind: str, placement: Placement, *, tied: bool) -> Any:
    """Return a model of ``kind`` with weights that depend on their names only."""
    if kind == "causal":
        model = CausalLM(small_config(tied=tied), placement=placement)
    elif kind == "experts":
        model = CausalLM(small_config(tied=tied, **EXPERTS), placement=placement)
    else:
        model = ScoreModel(small_config(), ScoreOptions(score_bias=True), placement=placement)
    draw_weights(model, seed=3, std=0.15)
    return model


def run_all(layout: Layout, counts: Sequence[int], tied: bool, recompute: bool) -> dict[Any, Any]:
    """Return gradients, metrics and outputs by (task, number of micro-batches)."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    results = {}
    for name, (kind, make_task) in TASKS.items():
        model = build_model(kind, Placement.of(topology), tied=tied)
        model.model.recompute = recompute
        runner = build_runner(model, topology)
        for count in counts:
            results[name, count] = run_task(runner, *make_task(count), topology)
            model.clear_gradients()
    return results


def run_task(runner: ModelRunner, batches: list[TokenBatch], make_objective: Any, topology: Topology) -> dict[str, Any]:
    """Run ``batches`` forward, twice forward and backward, and forward again; experts are balanced in the first.

    Those of the batches are replayed in the last two.
    """
    model = runner.model
    balancing = None if runner.model.config.experts is None else BalancingLoss("policy", runner, topology)
    read = read_logprobs if model.kind == "causal" else read_values
    objective = make_objective(model)
    seen: list[np.ndarray] = []

    def loss(output: Any, batch: TokenBatch) -> Loss:
        seen.append(batch.lengths)
        return objective.loss(output, batch)

    before = runner.forward(batches, read)
    if balancing is not None:
        balancing.begin(batches, 0.5)
    first = runner.forward_backward(batches, objective)
    if balancing is not None:
        first = [*first, {key: np.float32(metric.value) for key, metric in balancing.finish(batches).items()}]
        balancing.begin(batches, 0.0)
        model.model.replay = ExpertReplay(topology.world)
    second = runner.forward_backward(batches, Objective(objective.read, loss))
    shared = runner.share(seen)
    if balancing is not None:
        second = [*second, {key: np.float32(metric.value) for key, metric in balancing.finish(batches).items()}]
    after = runner.forward(batches, read)
    if balancing is not None:
        second[-1]["mismatch"] = np.float32(model.model.replay.mismatch())
        model.model.replay = None
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return {
        "outputs": [before, after],
        "metrics": [first, second],
        "shared": shared,
        "gradients": gradients,
        "missing": [name for name, p in model.named_parameters() if p.grad is None],
    }


def read_logprobs(model: Any, batch: TokenBatch) -> Any:
    """Return log-probs and entropies in the grid of ``batch``."""
    logprobs, entropy = policy_logprobs(model, batch, temperature=0.7, with_entropy=True)
    return to_grid(logprobs, batch), to_grid(entropy, batch)


def read_values(model: Any, batch: TokenBatch) -> Any:
    """Return values where there are targets, else the scores of whole sequences."""
    return token_values(model, batch) if batch.num_targets else model.read_end_scores(batch)
