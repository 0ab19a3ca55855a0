"""What each rank does in ``test_generation.py``: generate with its part of weights that everyone can draw."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import paddle

from alignment.architecture.cuts import whole_shapes
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.layout import Layout
from alignment.errors import UserError
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from alignment.generation.engine_placement import WHOLE_MODEL, EnginePlacement
from alignment.models.decoder.placement import Placement
from alignment.parallel.initialise import initialise
from alignment.rollout.team_engine import TeamEngine
from tests.tiny_models import in_own_names

SHAPE = dict(
    vocab_size=41,
    hidden_size=32,
    intermediate_size=50,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
FAMILIES = {
    "llama": dict(model_type="llama"),
    "one kv head": dict(model_type="llama", num_key_value_heads=1, attention_bias=True, mlp_bias=True),
    "window": dict(model_type="mistral", sliding_window=5),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True),
    "qwen3": dict(model_type="qwen3", head_dim=12),
    "shared expert": dict(
        model_type="qwen2_moe",
        num_experts=5,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=20,
        mlp_only_layers=[1],
    ),
    "norms of all heads": dict(model_type="olmo2"),
    "norms of sums": dict(model_type="opt", word_embed_proj_dim=18, do_layer_norm_before=False),
}
OPTIONS = {
    "greedy": GenerationOptions(max_new_tokens=12, do_sample=False, stop_token_ids=(3, 11), temperature=0.8),
    "sampled": GenerationOptions(max_new_tokens=12, stop_token_ids=(3, 11), temperature=0.9),
    "filtered": GenerationOptions(max_new_tokens=8, stop_token_ids=(3,), top_k=10, top_p=0.8, max_total_tokens=12),
    "penalty": GenerationOptions(
        max_new_tokens=8, min_new_tokens=6, stop_token_ids=(3, 11, 40), repetition_penalty=1.3, do_sample=False
    ),
}
PROMPTS = [[5, 6, 7], [1], [9, 8, 7, 6, 5, 4, 3], [2, 2], [30, 31, 32, 33, 40], [12], [13, 14]]
IDS = [10, 11, 12, 13, 14, 15, 16]


def options_of(family: str) -> dict[str, GenerationOptions]:
    """Return the kinds of options; a family with experts says which ones it chose."""
    records = config_of(family).experts is not None
    return {kind: replace(options, routed_experts=records) for kind, options in OPTIONS.items()}


def config_of(family: str) -> DecoderConfig:
    return DecoderConfig.from_dict(in_own_names({**SHAPE, **FAMILIES[family]}))


def whole_weights(config: DecoderConfig, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in whole_shapes(config, "causal").items():
        weights[name] = rng.normal(0, 0.15, shape).astype(np.float32) + ("norm" in name)
    return weights


def part_of_weights(config: DecoderConfig, placement: Placement, weights: dict[str, np.ndarray]):
    for name, part in placement.parts(config, "causal").items():
        yield name, paddle.to_tensor(np.ascontiguousarray(weights[name][part.slices]))


def build_engine(config: DecoderConfig, placement: EnginePlacement = WHOLE_MODEL, **how) -> EagerEngine:
    return EagerEngine(SimpleNamespace(config=config), placement=placement, **how)


def plain(completions) -> list[tuple]:
    return [(c.token_ids.tolist(), c.logprobs.tolist(), c.finish_reason, c.routed_experts) for c in completions]


def generate_whole(family: str, kind: str, **how) -> list[tuple]:
    config = config_of(family)
    engine = build_engine(config, **how)
    engine.load_weights(((n, paddle.to_tensor(w)) for n, w in whole_weights(config).items()), 0)
    return plain(engine.generate(PROMPTS, options_of(family)[kind], seed=1, sequence_ids=IDS))


def load(topology, family: str, *, damaged: int | None = None, **how) -> EagerEngine:
    config, placement = config_of(family), Placement.of(topology)
    layers = tuple(placement.layers(config.num_hidden_layers))
    engine = build_engine(
        config, EnginePlacement(tensor=topology.tensor, pipeline=topology.pipeline, layers=layers), **how
    )
    weights = whole_weights(config)
    if damaged == topology.batch.index:
        weights["model.layers.1.mlp.up_proj.weight"][:] = np.nan
    engine.load_weights(part_of_weights(config, placement, weights), 0)
    return engine


def generate(layout: Layout, families: list[str], max_batch_rows: int | None = None) -> dict:
    """Return completions by (family, kind of options)."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    found = {}
    for family in families:
        engine = load(topology, family, max_batch_rows=max_batch_rows)
        for kind, options in options_of(family).items():
            team = TeamEngine(engine, topology.batch, config=config_of(family))
            found[family, kind] = plain(team.generate(PROMPTS, options, seed=1, sequence_ids=IDS))
        assert team.generate([], options, seed=1, sequence_ids=[]) == []
        options = options_of(family)["sampled"]
        found[family, "few"] = plain(team.generate(PROMPTS[:1], options, seed=1, sequence_ids=IDS[:1]))
    return found


def count_messages(layout: Layout) -> dict[str, dict[str, int]]:
    """Return how many messages of each kind the tensor group exchanged, by kind of options."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    engine, traffic = load(topology, "llama"), topology.link.traffic
    counted = {}
    for kind in ("greedy", "sampled"):
        traffic.clear()
        engine.generate(PROMPTS, OPTIONS[kind], seed=1, sequence_ids=IDS)
        counted[kind] = {name: messages for _, group, name, messages, _ in traffic.rows() if group == "tensor"}
    return counted


def fail(layout: Layout) -> list[str]:
    """Return the messages that this rank got for a bad prompt, and for NaN in the weights of the last replica."""
    topology = initialise(device="cpu", seed=1, layout=layout)
    messages = []
    for damaged, prompts in ((None, [*PROMPTS[:5], [41]]), (layout.batch - 1, PROMPTS)):
        engine = load(topology, "llama", damaged=damaged)
        team = TeamEngine(engine, topology.batch, config=config_of("llama"))
        try:
            team.generate(prompts, OPTIONS["sampled"], seed=1, sequence_ids=range(len(prompts)))
        except UserError as error:
            messages.append(f"{type(error).__name__}: {error}")
        # Everyone is still in step.
        assert topology.world.gather_objects(len(messages)) == [len(messages)] * topology.world_size
    return messages


def ask_main(layout: Layout, calls_fail: bool) -> dict:
    """Score with a function that only the first rank may call."""
    from alignment.rollout.rewards.scorers import FailurePolicy, TextScorer

    topology = initialise(device="cpu", seed=1, layout=layout)
    calls = []

    def call(batch):
        calls.append(len(batch.responses))
        if calls_fail:
            raise ConnectionError("broken")
        return [float(len(response)) for response in batch.responses]

    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: "x" * len(ids))
    policy = FailurePolicy(retries=1, backoff_seconds=0.0)
    scorer = TextScorer(call, tokenizer, name="f", policy=policy, world=topology.world)
    rollout = SimpleNamespace(
        responses=[np.array([1]), np.array([1, 2])], inputs=["a", "b"], labels=[None, None], group_ids=np.array([0, 1])
    )
    try:
        scores = scorer.score(rollout)
        return {"calls": calls, "values": scores.values.tolist()}
    except UserError as error:
        return {"calls": calls, "error": f"{type(error).__name__}: {error}"}
