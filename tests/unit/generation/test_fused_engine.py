"""The fused engine against the eager one, and against itself under other slots, memory and order."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.errors import NotFiniteError, UserError
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from alignment.generation.engine_placement import EnginePlacement
from alignment.generation.fused import kernels as module
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import FusedSettings, read_bytes
from alignment.generation.fused.kernels import CPU_KERNELS
from alignment.generation.sampling import exponentiate, keep_likeliest
from alignment.ops.native.library import find_core
from tests.tiny_models import tiny_causal, tiny_config
from tests.unit.generation.boundaries import Draws

SHAPE = dict(vocab_size=40, hidden_size=32, intermediate_size=48, max_position_embeddings=64)
SHAPE |= dict(num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)
FAMILIES = {
    "llama": dict(model_type="llama"),
    "llama-biases": dict(model_type="llama", attention_bias=True, mlp_bias=True),
    "window": dict(model_type="mistral", sliding_window=5),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True),
    "qwen3": dict(model_type="qwen3", head_dim=12),
    "yarn": dict(
        model_type="llama",
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    ),
}
OPTIONS = {
    "greedy": GenerationOptions(max_new_tokens=12, do_sample=False, stop_token_ids=(3, 11)),
    "sampled": GenerationOptions(max_new_tokens=12, stop_token_ids=(3, 11), temperature=0.9),
    "filtered": GenerationOptions(max_new_tokens=12, stop_token_ids=(3,), top_k=10, top_p=0.8, temperature=1.3),
    "penalty": GenerationOptions(
        max_new_tokens=12, min_new_tokens=6, stop_token_ids=(3, 11, 99), repetition_penalty=1.3, max_total_tokens=40
    ),
}
PROMPTS = [
    np.random.default_rng(length).integers(0, 40, 1 + length * 37 % 38).tolist() for length in range(64)
]  # 1 to 38 tokens, every length at least once


@pytest.fixture(autouse=True, scope="module")
def kernels():
    """Skip where no kernel library can be had."""
    if find_core().core is None:
        pytest.skip(find_core().reason)


def build(family="llama", seed=0):
    return tiny_causal(seed=seed, std=0.4, **{**SHAPE, **FAMILIES[family]})


def fused(model, *, progress=None, usable=None, **settings):
    settings = {"block_tokens": 16, **settings}  # so that short prompts take several
    engine = FusedEngine(model, FusedSettings(**settings), usable_vocab_size=usable, progress=progress)
    engine.load_weights(None, 0)
    return engine


def eager(model, **how):
    engine = EagerEngine(model, **how)
    engine.load_weights(None, 0)
    return engine


def answer(engine, prompts, options, *, seed=1, ids=None):
    return engine.generate(prompts, options, seed=seed, sequence_ids=range(len(prompts)) if ids is None else ids)


def tokens_of(completions):
    return [completion.token_ids.tolist() for completion in completions]


def assert_same(found, wanted, *, atol):
    assert tokens_of(found) == tokens_of(wanted)
    assert [c.finish_reason for c in found] == [c.finish_reason for c in wanted]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=atol, rtol=0)
        assert one.token_ids.dtype == other.token_ids.dtype and one.logprobs.dtype == other.logprobs.dtype


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", OPTIONS)
def test_tokens_and_logprobs_are_those_of_the_eager_engine(family, kind):
    model = build(family)
    engine = fused(model, num_slots=7, max_rows=50)
    found = answer(engine, PROMPTS, OPTIONS[kind])
    wanted = answer(eager(model, usable_vocab_size=None), PROMPTS, OPTIONS[kind])
    Draws(model, PROMPTS, OPTIONS[kind]).assert_same(found, wanted, atol=1e-4)


def test_unusable_ids_are_never_drawn():
    model, options = build(), OPTIONS["sampled"]
    found = answer(fused(model, usable=30), PROMPTS, options)
    wanted = answer(eager(model, usable_vocab_size=30), PROMPTS, options)
    Draws(model, PROMPTS, options, usable=30).assert_same(found, wanted, atol=1e-4)
    assert max(max(tokens) for tokens in tokens_of(found)) < 30


def block_bytes(model):
    """Return the bytes of 16 float32 keys and values (these 16 wide at least) of all heads and layers."""
    return 4 * 16 * (model.config.head_dim + 16) * SHAPE["num_key_value_heads"] * SHAPE["num_hidden_layers"]


MODEL_BLOCK = 4 * 16 * (8 + 16) * 2 * 2


@pytest.mark.parametrize(
    "settings",
    [
        dict(num_slots=1),
        dict(num_slots=64, max_rows=1000),
        dict(num_slots=20, blocks=4),
        dict(num_slots=9, max_rows=3),
        dict(block_tokens=64),
        dict(threads=2),
    ],
    ids=["one slot", "all slots", "few blocks", "tiny chunks", "large blocks", "threads"],
)
@pytest.mark.parametrize("family", ["llama", "window", "qwen3"])
def test_slots_memory_and_order_change_no_bit(family, settings):
    model, options = build(family), OPTIONS["sampled"]
    wanted = answer(fused(model, num_slots=6), PROMPTS, options)
    order = np.random.default_rng(3).permutation(len(PROMPTS))
    blocks, settings = settings.get("blocks"), {key: value for key, value in settings.items() if key != "blocks"}
    if blocks:
        settings["kv_memory"] = blocks * block_bytes(model)
    engine = fused(model, **settings)
    found = answer(engine, [PROMPTS[i] for i in order], options, ids=order)
    assert_same(found, [wanted[i] for i in order], atol=0)
    assert (engine.counts.preemptions > 0) == bool(blocks)


def test_samples_of_a_prompt_share_its_computation():
    model, options = build("qwen2"), GenerationOptions(max_new_tokens=12)
    prompts = [prompt for prompt in ([5] * 30, [6, 7, 8], [9] * 17) for _ in range(8)]
    wanted = [answer(fused(model), [p], options, ids=[i])[0] for i, p in enumerate(prompts)]
    engine = fused(model, num_slots=5)
    assert_same(answer(engine, prompts, options), wanted, atol=0)
    assert engine.counts.shared_tokens == 7 * (29 + 2 + 16)
    assert engine.counts.copies == 7 * 2, "16 tokens fill a block, which needs no copy"
    assert len({tuple(tokens) for tokens in tokens_of(wanted[:8])}) == 8
    squeezed = fused(model, num_slots=24, kv_memory=6 * block_bytes(model))
    assert_same(answer(squeezed, prompts, options), wanted, atol=0)
    assert squeezed.counts.preemptions > 0


def test_seed_and_sequence_id_change_the_answer():
    engine, options = fused(build()), GenerationOptions(max_new_tokens=12)
    first = tokens_of(answer(engine, PROMPTS[:1], options))
    assert tokens_of(answer(engine, PROMPTS[:1], options)) == first
    assert tokens_of(answer(engine, PROMPTS[:1], options, seed=2)) != first
    assert tokens_of(answer(engine, PROMPTS[:1], options, ids=[2**40])) != first


@pytest.mark.parametrize("filters", [{}, {"top_k": 8}, {"top_p": 0.6}, {"temperature": 2.0}])
def test_frequencies_follow_the_exact_probabilities(filters):
    model, count, prompt = build(), 4000, [5, 6, 7]
    options = GenerationOptions(max_new_tokens=1, **filters)
    drawn = np.concatenate(tokens_of(answer(fused(model), [prompt] * count, options)))
    with paddle.no_grad():
        logits = model(np.array([prompt]))[:, -1].numpy() / np.float32(options.temperature)
    kept = keep_likeliest(exponentiate(logits)[0], options.top_k, options.top_p)[0].astype(np.float64)
    expected = count * kept / kept.sum()
    observed = np.bincount(drawn, minlength=len(expected))
    assert not observed[expected == 0].any()
    large = expected >= 5
    groups = [(observed[large], expected[large])]
    rest = ~large & (expected > 0)
    if rest.any():
        groups.append((observed[rest].sum(keepdims=True), expected[rest].sum(keepdims=True)))
    statistic = sum(float(((o - e) ** 2 / e).sum()) for o, e in groups)
    freedom = sum(len(o) for o, _ in groups) - 1
    assert statistic < freedom + 4.5 * np.sqrt(2 * freedom) + 4  # about one in 10,000


def test_progress_counts_every_token():
    steps = []
    answers = answer(fused(build(), progress=steps.append, num_slots=4), PROMPTS, OPTIONS["sampled"])
    assert sum(steps) == sum(map(len, tokens_of(answers)))


def test_no_prompts_give_no_answers():
    assert answer(fused(build()), [], OPTIONS["sampled"]) == []


@pytest.mark.parametrize("prompt", [[], [1, 40], [-1], [1] * 53])
def test_bad_prompts_are_refused_as_by_the_eager_engine(prompt):
    model, messages = build(), []
    for engine in (fused(model), eager(model)):
        with pytest.raises(UserError) as refusal:
            answer(engine, [[1], prompt], OPTIONS["sampled"])
        messages.append(str(refusal.value))
    assert messages[0] == messages[1] and messages[0].startswith("prompt 1 ")


def test_the_longest_allowed_sequence_runs():
    model = build()
    engine = fused(model, kv_memory=4 * MODEL_BLOCK)
    prompts, options = [[1] * 52] * 2, GenerationOptions(max_new_tokens=12)
    assert_same(answer(engine, prompts, options), answer(eager(model), prompts, options), atol=1e-4)


def test_a_sequence_that_never_fits_is_refused_with_the_memory_it_needs():
    engine = fused(build(), kv_memory=3 * MODEL_BLOCK + 5)
    options = GenerationOptions(max_new_tokens=12)
    assert len(answer(engine, [[1] * 37], options)[0].token_ids) == 12
    with pytest.raises(UserError, match=f"prompt 1 has 38 .*need {4 * MODEL_BLOCK} bytes.*holds {3 * MODEL_BLOCK}"):
        answer(engine, [[1], [1] * 38], options)


def test_memory_is_what_was_asked_for():
    model = build()
    engine = FusedEngine(model, FusedSettings(block_tokens=16, kv_memory=5 * MODEL_BLOCK))
    assert engine.num_bytes == 0
    engine.load_weights(None, 0)
    few, many = engine.num_bytes, fused(model, kv_memory=25 * MODEL_BLOCK).num_bytes
    assert many - few == 20 * MODEL_BLOCK
    assert fused(model, kv_memory="1GiB", num_slots=2).num_bytes < many, "no more than two slots can use"
    engine.load_weights(None, 1)
    assert engine.num_bytes == few
    engine.release()
    assert engine.num_bytes == 0


def test_max_length_is_checked():
    engine = fused(build(), max_length=20)
    assert len(answer(engine, [[1] * 8], GenerationOptions(max_new_tokens=12))[0].token_ids) == 12
    with pytest.raises(UserError, match="prompt 0 has 9 tokens and its answer may have 12.* max_length=20"):
        answer(engine, [[1] * 9], GenerationOptions(max_new_tokens=12))


def test_an_update_is_packed_over_the_old_weights():
    model, other = build(), build(seed=5)
    engine, options = fused(model), OPTIONS["greedy"]
    before = answer(engine, PROMPTS, options)
    engine.load_weights(other.named_parameters(), 3)
    assert engine.version == 3
    after = answer(engine, PROMPTS, options)
    assert_same(after, answer(eager(other), PROMPTS, options), atol=1e-4)
    assert tokens_of(after) != tokens_of(before)


def test_weights_may_be_bfloat16_or_not_contiguous():
    model = build()
    narrow = [(name, p.detach().astype("bfloat16")) for name, p in model.named_parameters()]
    wide = [(name, p.astype("float32")) for name, p in narrow]
    turned = [(name, p.t().contiguous().t() if p.ndim == 2 else p) for name, p in wide]
    assert not turned[0][1].is_contiguous()
    answers = []
    for weights in (narrow, wide, turned):
        engine = FusedEngine(model)
        engine.load_weights(iter(weights), 0)
        answers.append(answer(engine, PROMPTS, OPTIONS["sampled"]))
    assert_same(answers[0], answers[1], atol=0)
    assert_same(answers[2], answers[1], atol=0)


def test_missing_and_unknown_weights_are_refused():
    model = build()
    engine, weights = FusedEngine(model), list(model.named_parameters())
    with pytest.raises(UserError, match="2 of 21 weights were not given: model.layers.1.input_layernorm.weight, model"):
        engine.load_weights([w for w in weights if not w[0].startswith("model.layers.1.") or "proj" in w[0]], 1)
    assert engine.version is None
    with pytest.raises(AssertionError, match="load_weights"):
        answer(engine, [[1]], OPTIONS["greedy"])
    with pytest.raises(UserError, match="'score.weight' is not one"):
        engine.load_weights([*weights, ("score.weight", weights[0][1])], 1)
    engine.load_weights(weights, 1)
    assert len(answer(engine, [[1]], OPTIONS["greedy"])) == 1


@pytest.mark.parametrize(
    ("types", "share"), [(dict(weight_type="bfloat16", kv_type="bfloat16"), 0.5), (dict(weight_type="int8"), 0.3)]
)
def test_narrow_types_stay_close(types, share):
    model, options = build(), GenerationOptions(max_new_tokens=1, do_sample=False)
    found, wanted = (answer(e, PROMPTS, options) for e in (fused(model, **types), eager(model)))
    same = np.mean([a == b for a, b in zip(tokens_of(found), tokens_of(wanted), strict=True)])
    assert same > share
    differences = [abs(a.logprobs[0] - b.logprobs[0]) for a, b in zip(found, wanted, strict=True)]
    assert 0 < np.median(differences) < 0.3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("how", list(OPTIONS))
@pytest.mark.parametrize("engine", [fused, eager])
def test_damaged_weights_are_reported_alike_by_both_engines(engine, how, value):
    model = build()
    model.model.norm.weight.set_value(paddle.full([32], value))
    with pytest.raises(NotFiniteError, match="new token 0 are NaN or infinite in 2 of 2 sequences"):
        answer(engine(model), [[1], [2]], OPTIONS[how])


def test_release_wants_new_weights():
    model = build()
    engine = fused(model)
    engine.release()
    engine.release()
    with pytest.raises(AssertionError, match="load_weights"):
        answer(engine, [[1]], OPTIONS["greedy"])
    engine.load_weights(None, 1)
    assert tokens_of(answer(engine, PROMPTS, OPTIONS["greedy"])) == tokens_of(
        answer(eager(model), PROMPTS, OPTIONS["greedy"])
    )


def test_what_is_in_the_way_is_said_in_one_line(monkeypatch):
    config, obstacle = build().config, CPU_KERNELS.obstacle
    assert obstacle(config) is None
    odd = tiny_config(**{**SHAPE, "intermediate_size": 49})
    assert obstacle(odd).endswith("even widths, a process has inner 49")
    stage = EnginePlacement(pipeline=SimpleNamespace(size=2))
    assert obstacle(config, stage).endswith("all layers in one process, pipeline_parallel_degree=2")
    monkeypatch.setattr(module, "load_core", lambda: None)
    assert obstacle(config).startswith("no kernel library: ")
    with pytest.raises(UserError, match="no kernel library"):
        FusedEngine(build())
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    assert obstacle(config) == "the CPU kernels run on cpu, the device is gpu:0"


@pytest.mark.parametrize(
    "bad",
    [
        dict(num_slots=0),
        dict(kv_memory=0),
        dict(kv_memory="2 GB"),
        dict(max_length=1),
        dict(max_rows=0),
        dict(block_tokens=24),
        dict(weight_type="float16"),
        dict(kv_type="int8"),
        dict(threads=0),
    ],
)
def test_impossible_settings_are_refused(bad):
    ((name, value),) = bad.items()
    with pytest.raises(UserError, match=f"{name}={value!r} .allowed: "):
        FusedSettings(**bad)


@pytest.mark.parametrize(
    ("text", "size"), [(4096, 4096), ("4096", 4096), ("1.5GiB", 3 << 29), ("2 mib", 2 << 20), ("3KiB", 3072)]
)
def test_memory_is_bytes_or_a_number_with_a_unit(text, size):
    assert read_bytes(text) == size
