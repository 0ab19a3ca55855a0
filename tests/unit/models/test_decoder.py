"""Decoder: padding, positions, tied heads, recomputation and drawn weights."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.models.config import DecoderConfig
from alignment.models.decoder import CausalLM
from alignment.models.initialise import draw_weights

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


def build(family="llama", *, dtype="float32", **changes):
    model = CausalLM(DecoderConfig.from_dict({**SHAPE, **FAMILIES[family], **changes}), dtype=dtype)
    draw_weights(model, seed=3, std=0.3)
    return model


def logits(model, ids, **more):
    with paddle.no_grad():
        return model(ids, **more).numpy()


def gradients(model, ids, **more):
    weights = paddle.to_tensor(np.random.default_rng(1).standard_normal((*ids.shape, 40)) * REAL[..., None])
    (model(ids, **more) * weights.astype("float32")).sum().backward()
    found = {name: parameter.grad.numpy().copy() for name, parameter in model.named_parameters()}
    model.clear_gradients()
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


def test_only_relative_positions_matter():
    model = build()
    shifted = np.broadcast_to(np.arange(9) + 20, IDS.shape)
    np.testing.assert_allclose(logits(model, IDS, position_ids=shifted), logits(model, IDS), atol=1e-4)
    stretched = np.broadcast_to(np.arange(9) * 3, IDS.shape)
    assert abs(logits(model, IDS, position_ids=stretched) - logits(model, IDS)).max() > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputation_is_bit_equal(family):
    model = build(family)
    model.train()
    plain = gradients(model, IDS, lengths=LENGTHS)
    model.model.recompute = True
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
