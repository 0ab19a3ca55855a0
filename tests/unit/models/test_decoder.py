"""Decoder: padding, positions, tied heads, recomputation and drawn weights."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.architecture.decoder_config import DecoderConfig
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.logprobs import policy_logprobs
from alignment.models.decoder.placement import WHOLE, Placement
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.ops import attention
from alignment.ops.native import selection
from alignment.parallel.comms.group import Group
from alignment.records import TokenBatch

SHAPE = dict(
    vocab_size=40,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
FAMILIES = {
    "llama": dict(model_type="llama"),
    "mistral": dict(model_type="mistral", sliding_window=4),
    "qwen2": dict(model_type="qwen2", tie_word_embeddings=True),
    "qwen3": dict(model_type="qwen3", head_dim=12),
}
IDS = np.random.default_rng(0).integers(0, 40, (3, 9))
LENGTHS = np.array([9, 2, 6])
REAL = np.arange(9)[None] < LENGTHS[:, None]


BATCH = TokenBatch.build([row[:n] for row, n in zip(IDS, LENGTHS, strict=True)], [[3, 4], [1], [2, 5]])


def build(family="llama", *, dtype="float32", placement=WHOLE, **changes):
    config = DecoderConfig.from_dict({**SHAPE, **FAMILIES[family], **changes})
    model = CausalLM(config, dtype=dtype, placement=placement)
    draw_weights(model, seed=3, std=0.3)
    return model


def logits(model, ids, **more):
    with paddle.no_grad():
        return model(ids, **more).numpy()


def gradients(model, ids, **more):
    weights = paddle.to_tensor(np.random.default_rng(1).standard_normal((*ids.shape, 40)) * REAL[..., None])
    (model(ids, **more) * weights.astype("float32")).sum().backward()
    found = {name: parameter.grad.numpy().copy() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.clear_gradient(False)  # as the optimizer does: to one that is there kernels add
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_sees_only_what_is_before_it(family):
    model = build(family)
    changed = IDS.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 40
    before, after = logits(model, IDS), logits(model, changed)
    assert np.array_equal(before[:, :5], after[:, :5])
    assert (abs(before[:, 5] - after[:, 5]).max(axis=-1) > 1e-3).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_matter(family):
    model = build(family)
    whole, packed = logits(model, IDS), logits(model, IDS, lengths=LENGTHS)
    np.testing.assert_allclose(packed[REAL], whole[REAL], atol=2e-5)
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(logits(model, IDS[row : row + 1, :length])[0], whole[row, :length], atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_do_not_depend_on_padding(family):
    model = build(family)
    whole, packed = gradients(model, IDS), gradients(model, IDS, lengths=LENGTHS)
    assert whole.keys() == dict(model.named_parameters()).keys()
    for name, value in whole.items():
        np.testing.assert_allclose(packed[name], value, atol=1e-5 * max(1.0, abs(value).max()), err_msg=name)
        assert abs(value).max() > 0 or name.endswith("k_proj.bias"), name


@pytest.mark.parametrize("granularity", [None, "full", "full_attn", "core_attn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_states_that_are_read_are_those_of_the_whole_pass(family, granularity):
    """Also with gaps between them, a row of which none is read, and one that is read twice."""
    model = build(family)
    model.train()
    model.model.recompute, model.model.recompute_granularity = granularity is not None, granularity or "full"
    rows, positions = np.array([0, 0, 0, 2, 2]), np.array([3, 4, 7, 5, 5])
    slope = paddle.to_tensor(np.random.default_rng(2).standard_normal((5, 32)).astype("float32"))
    found = []
    for read in (lambda d: d(IDS, lengths=LENGTHS)[rows, positions], lambda d: d.at(BATCH, rows, positions)):
        states = read(model.model)
        (states * slope).sum().backward()
        gradients = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
        found.append({"states": states.numpy(), **gradients})
        model.clear_gradients()
    whole, few = found
    assert whole.keys() == few.keys()
    for name, value in whole.items():
        np.testing.assert_allclose(few[name], value, atol=2e-6 * max(1.0, abs(value).max()), err_msg=name)


def test_the_last_layer_computes_nothing_for_tokens_that_are_not_read():
    model, seen = build(), []
    for number, part in ((1, "feed_forward"), (2, "feed_forward"), (2, "attention")):
        model.model.layers[number][part].register_forward_post_hook(lambda _, __, out: seen.append(out.shape[0]))
    model.model.at(BATCH, np.array([0, 2]), np.array([8, 5]))
    assert seen == [17, 2, 2]


def test_only_relative_positions_matter():
    model = build()
    shifted = np.broadcast_to(np.arange(9) + 20, IDS.shape)
    np.testing.assert_allclose(logits(model, IDS, position_ids=shifted), logits(model, IDS), atol=1e-4)
    stretched = np.broadcast_to(np.arange(9) * 3, IDS.shape)
    assert abs(logits(model, IDS, position_ids=stretched) - logits(model, IDS)).max() > 1e-2


@pytest.mark.parametrize("granularity", ["full", "full_attn", "core_attn"])
@pytest.mark.parametrize("family", FAMILIES)
def test_recomputation_is_bit_equal(family, granularity):
    model = build(family)
    model.train()
    plain = gradients(model, IDS, lengths=LENGTHS)
    model.model.recompute, model.model.recompute_granularity = True, granularity
    again = gradients(model, IDS, lengths=LENGTHS)
    for name, value in plain.items():
        assert np.array_equal(again[name], value), name


def test_tied_head_has_no_parameter_and_gets_both_gradients():
    model = build("qwen2")
    assert model.lm_head is None
    assert not any(name.startswith("lm_head") for name, _ in model.named_parameters())
    free = build("qwen2", tie_word_embeddings=False)
    free.set_state_dict({**model.state_dict(), "lm_head.weight": model.model.embed_tokens.weight.t()})
    tied, split = gradients(model, IDS), gradients(free, IDS)
    both = split["model.embed_tokens.weight"] + split["lm_head.weight"].T
    np.testing.assert_allclose(tied["model.embed_tokens.weight"], both, atol=1e-4)


def test_parameter_names_and_layouts():
    shapes = {name: parameter.shape for name, parameter in build("qwen3").named_parameters()}
    assert shapes["model.embed_tokens.weight"] == [40, 32]
    assert shapes["model.layers.2.self_attn.q_proj.weight"] == [32, 48]
    assert shapes["model.layers.2.self_attn.k_proj.weight"] == [32, 24]
    assert shapes["model.layers.2.self_attn.q_norm.weight"] == [12]
    assert shapes["model.layers.0.mlp.down_proj.weight"] == [48, 32]
    assert shapes["model.norm.weight"] == [32]
    assert shapes["lm_head.weight"] == [32, 40]
    biased = dict(build("qwen2").named_parameters())
    assert "model.layers.0.self_attn.k_proj.bias" in biased
    assert "model.layers.0.self_attn.o_proj.bias" not in biased


def test_gradient_matches_a_finite_difference():
    model = build("qwen3", dtype="float64")
    weight = model.model.layers[1].self_attn.k_proj.weight
    direction = np.random.default_rng(2).standard_normal(weight.shape)

    def loss():
        return paddle.log(model(IDS, lengths=LENGTHS).square().sum())

    loss().backward()
    slope = float((weight.grad.numpy() * direction).sum())
    start, step, values = weight.numpy().copy(), 1e-5, []
    for sign in (1, -1):
        weight.set_value(start + sign * step * direction)
        values.append(float(loss()))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


def test_drawn_weights_depend_on_name_and_seed_only():
    paddle.seed(1)
    first = dict(build("qwen2").named_parameters())
    paddle.seed(2)
    deeper = dict(build("qwen2", num_hidden_layers=5).named_parameters())
    for name, parameter in first.items():
        assert np.array_equal(parameter.numpy(), deeper[name].numpy()), name
    other = build("qwen2")
    draw_weights(other, seed=4, std=0.3)
    for name, parameter in other.named_parameters():
        values = parameter.numpy()
        if values.ndim == 2:
            assert not np.array_equal(values, first[name].numpy()), name
            assert values.std() == pytest.approx(0.3, rel=0.1)
        else:
            assert (values == float(name.endswith("norm.weight"))).all(), name


def test_building_a_model_leaves_the_random_state_alone():
    paddle.seed(0)
    wanted = paddle.rand([3]).numpy()
    paddle.seed(0)
    build()
    assert np.array_equal(paddle.rand([3]).numpy(), wanted)


def count_kept(granularity):
    """Return how many numbers a forward pass in training keeps for its backward pass."""
    model = build(num_hidden_layers=2)
    model.train()
    model.model.recompute, model.model.recompute_granularity = granularity is not None, granularity
    sizes = []

    def pack(tensor):
        sizes.append(tensor.size)
        return tensor

    with paddle.autograd.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = model(IDS)
    assert kept.shape == [3, 9, 40]
    return sum(sizes)


def test_recomputing_more_keeps_less():
    plain, blocks, layers = (count_kept(kind) for kind in (None, "full_attn", "full"))
    assert layers < blocks < plain


@pytest.mark.parametrize(("granularity", "times"), [(None, 1), ("core_attn", 2)])
def test_attention_weights_alone_are_computed_again(monkeypatch, granularity, times):
    monkeypatch.setattr(selection, "_wanted", False)  # compiled kernels never keep them
    calls = []
    compute = attention._probabilities
    monkeypatch.setattr(attention, "_probabilities", lambda *given: calls.append(1) or compute(*given))
    model = build(num_hidden_layers=2)
    model.train()
    model.model.recompute, model.model.recompute_granularity = granularity is not None, granularity
    gradients(model, IDS)
    assert len(calls) == 2 * times
    calls.clear()
    logits(model, IDS)
    assert len(calls) == 2


def stages(family, num_stages, chunks, **changes):
    placements = [Placement(stage=s, num_stages=num_stages, chunks_per_stage=chunks) for s in range(num_stages)]
    return [build(family, placement=placement, **changes) for placement in placements]


def run_stages(models, batch, read):
    """Run the chunks of all stages one after the other, and ``read`` on the last."""
    chunks = models[0].placement.chunks_per_stage
    hidden = None
    for place in range(len(models) * chunks - 1):
        chunk, stage = divmod(place, len(models))
        hidden = models[stage].model.run_chunk(chunk, batch, hidden)
        assert hidden.shape == [models[stage].model.boundary_rows(batch), 32]
    with models[-1].model.starting_from(hidden):
        return read(models[-1], batch)


def read_logprobs(model, batch):
    return policy_logprobs(model, batch, temperature=0.7, with_entropy=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("num_stages", "chunks"), [(2, 1), (3, 1), (2, 2)])
def test_stages_one_after_the_other_are_the_whole_model(family, num_stages, chunks):
    whole, parts = (build(family, num_hidden_layers=5), stages(family, num_stages, chunks, num_hidden_layers=5))
    results = [read_logprobs(whole, BATCH), run_stages(parts, BATCH, read_logprobs)]
    for logprobs, entropies in results:
        (logprobs.square() + entropies).sum().backward()
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one.numpy(), other.numpy())
    held = [(name, parameter) for model in parts for name, parameter in model.named_parameters()]
    wanted = {name: parameter.grad.numpy() for name, parameter in whole.named_parameters()}
    assert {name for name, _ in held} == wanted.keys()
    for name, value in wanted.items():
        found = [parameter.grad.numpy() for other, parameter in held if other == name]
        assert len(found) == (2 if name == "model.embed_tokens.weight" and whole.lm_head is None else 1)
        np.testing.assert_allclose(sum(found), value, rtol=1e-6, atol=1e-6 * abs(value).max(), err_msg=name)


def test_stages_of_a_score_model():
    config = DecoderConfig.from_dict({**SHAPE, **FAMILIES["qwen2"]})
    placements = [Placement(stage=stage, num_stages=2) for stage in range(2)]
    whole, *parts = (ScoreModel(config, ScoreOptions(), placement=p) for p in [WHOLE, *placements])
    for model in (whole, *parts):
        draw_weights(model, seed=3, std=0.3)
    assert parts[0].score is None and parts[1].model.embed_tokens is None
    found = run_stages(parts, BATCH, lambda model, batch: model.read_end_scores(batch))
    assert np.array_equal(found.numpy(), whole.read_end_scores(BATCH).numpy())


def test_a_stage_alone_is_a_mistake():
    first, last = stages("llama", 2, 1)
    with pytest.raises(AssertionError, match="starting_from"):
        last(IDS)
    with pytest.raises(AssertionError, match="last stage"):
        first.head()


def test_tokens_are_shared_out_between_chunks():
    for size, rows in ((2, 9), (4, 5)):
        placement = Placement(Group("tensor", range(size), rank=1), sequence_parallel=True)
        assert build(placement=placement).model.boundary_rows(BATCH) == rows, "17 tokens, the last padded"
    assert build().model.boundary_rows(BATCH) == 17


@pytest.mark.parametrize("family", FAMILIES)
def test_a_process_draws_its_part_of_the_whole_weights(family):
    whole = dict(build(family).named_parameters())
    for rank in range(4):
        model = build(family, placement=Placement(Group("tensor", range(4), rank=rank), stage=1, num_stages=2))
        for name, parameter in model.named_parameters():
            part = model.parts[name]
            assert np.array_equal(parameter.numpy(), whole[name].numpy()[part.slices]), name


def test_a_model_computes_in_the_type_its_weights_are_turned_to():
    rounded = build(dtype="bfloat16")
    assert rounded.model.dtype == paddle.bfloat16
    rounded.to(dtype="float32")
    exact = build()
    for parameter in exact.parameters():
        parameter.set_value(parameter.astype("bfloat16").astype("float32"))
    assert np.array_equal(logits(rounded, IDS), logits(exact, IDS))


def test_the_dtype_of_a_model_is_that_of_its_weights():
    """Converting a model converts its hidden states too; ranks without any of it have the type that it was made in."""
    config = DecoderConfig.from_dict({**SHAPE, **FAMILIES["llama"]}, place="the test")
    model = CausalLM(config, dtype="bfloat16")
    assert model.model.dtype == paddle.bfloat16
    assert model.to(dtype="float32").model.dtype == paddle.float32
    assert CausalLM(config, dtype="bfloat16", placement=Placement(is_nowhere=True)).model.dtype == paddle.bfloat16
