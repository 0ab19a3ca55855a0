"""Rows that share the tokens they begin with, against the same batch without sharing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import paddle
import pytest

from alignment.architecture.adapter import Adapter
from alignment.architecture.decoder_config import DecoderConfig
from alignment.models.adapters.attach import attach_adapter
from alignment.models.decoder.decoder import CausalLM, DecoderLayer
from alignment.models.decoder.forest import PASSED, Forest, pack, share_tokens
from alignment.models.decoder.initialise import draw_weights
from alignment.models.decoder.logprobs import policy_logprobs, predicting_hidden, token_values
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions
from alignment.models.decoder.wanted_tokens import WantedTokens
from alignment.ops.native.selection import use_native_ops
from alignment.records import TokenBatch

CONFIG = DecoderConfig.from_dict(
    dict(
        model_type="llama",
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
)
LONGROPE = DecoderConfig.from_dict(
    {
        **CONFIG.to_dict(),
        "model_type": "phi3",
        "pad_token_id": 0,
        "original_max_position_embeddings": 32,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4},
    }
)
EXPERTS = DecoderConfig.from_dict(
    {**CONFIG.to_dict(), "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
)
DRAWN = np.random.default_rng(0)
PROMPTS = [DRAWN.integers(0, 50, length) for length in (40, 9, 25)]
ANSWERS = [(0, 12), (1, 30), (0, 3), (2, 7), (1, 30), (0, 25)]
ROWS = [np.concatenate([PROMPTS[prompt], DRAWN.integers(0, 50, length)]) for prompt, length in ANSWERS]
BATCH = TokenBatch.build(
    ROWS,
    [np.arange(len(PROMPTS[prompt]), len(row)) for (prompt, _), row in zip(ANSWERS, ROWS, strict=True)],
    {"answer_starts": np.array([len(PROMPTS[prompt]) for prompt, _ in ANSWERS])},
)
ADAPTER = Adapter(rank=2, alpha=4, modules=("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"))
SAVED = 2 * 40 + 9 + 1
"""Two answers begin with the same token."""


@pytest.fixture(autouse=True)
def switches():
    yield
    share_tokens(False)
    use_native_ops(False)


def run(model, read):
    """Return (what ``read`` finds, gradients of a weighted sum of it by name)."""
    found = read(model)
    weights = paddle.to_tensor(np.random.default_rng(1).standard_normal(found.shape).astype("float32"))
    (found * weights).sum().backward()
    learned = [(name, parameter) for name, parameter in model.named_parameters() if parameter.grad is not None]
    gradients = {name: parameter.grad.numpy().copy() for name, parameter in learned}
    assert gradients
    model.clear_gradients()
    return found.numpy(), gradients


def assert_same_shared(model, read):
    before, gradients = run(model, read)
    share_tokens(True)
    after, shared_gradients = run(model, read)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6 * max(1, abs(before).max()))
    for name, gradient in gradients.items():
        np.testing.assert_allclose(
            shared_gradients[name], gradient, rtol=0, atol=1e-5 * abs(gradient).max(), err_msg=name
        )


def build(kind="causal", config=CONFIG):
    model = CausalLM(config) if kind == "causal" else ScoreModel(CONFIG, ScoreOptions(score_form=kind))
    draw_weights(model, seed=3, std=0.1)
    return model


def test_equal_beginnings_stand_once():
    rows = [[5, 6, 7, 8], [1, 2], [5, 6, 9], [1, 2, 3]]
    batch = TokenBatch.build([np.array(row) for row in rows], [[1]] * 4)
    forest = Forest.grow(batch.input_ids, batch.lengths)
    assert forest.num_tokens == len({(*row[:end],) for row in rows for end in range(1, len(row) + 1)}) == 8
    assert forest.num_saved == 4
    ids = batch.input_ids.reshape(-1)[forest.cells]
    for row, places, length in zip(rows, forest.places, batch.lengths, strict=True):
        assert ids[places[:length]].tolist() == row
    packed, positions = forest.owners(np.arange(8))
    assert np.array_equal(positions, forest.cells % 4)
    assert np.array_equal(np.bincount(packed, minlength=4), forest.lengths - forest.shared)


def test_a_short_common_beginning_is_not_shared():
    rows = [np.concatenate([[1, 2], DRAWN.integers(3, 50, 20)]) for _ in range(2)]
    batch = TokenBatch.build(rows, [[1]] * 2)
    assert Forest.grow(batch.input_ids, batch.lengths).shared is None


def test_nothing_is_shared_unless_asked():
    assert pack(BATCH.input_ids, BATCH.lengths).num_saved == 0
    share_tokens(True)
    assert pack(BATCH.input_ids, BATCH.lengths).num_saved == SAVED


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("granularity", [None, "full", "core_attn"])
def test_log_probs_and_gradients_are_the_same(native, granularity):
    use_native_ops(native)
    model = build()
    model.train()
    model.model.recompute, model.model.recompute_granularity = granularity is not None, granularity or "full"
    read = partial(policy_logprobs, batch=BATCH, temperature=0.8, with_entropy=True)
    assert_same_shared(model, lambda model: paddle.stack(read(model)))


@pytest.mark.parametrize("kind", ["end", "average"])
def test_scores_are_the_same(kind):
    use_native_ops(True)
    assert_same_shared(build(kind), lambda model: model.read_end_scores(BATCH))


def test_values_are_the_same():
    assert_same_shared(build("end"), lambda model: token_values(model, BATCH))


def test_shared_tokens_are_computed_once(monkeypatch):
    model, seen, attend = build(), [], DecoderLayer._attend

    def counted(layer, hidden, *others):
        seen.append(hidden.shape[0])
        return attend(layer, hidden, *others)

    monkeypatch.setattr(DecoderLayer, "_attend", counted)
    share_tokens(True)
    predicting_hidden(model, BATCH)
    assert seen == [int(BATCH.lengths.sum()) - SAVED] * 2


def test_models_that_read_the_same_rows_pack_them_once():
    share_tokens(True)
    forest = pack(BATCH.input_ids, BATCH.lengths)
    assert pack(BATCH.input_ids.copy(), BATCH.lengths.copy()) is forest
    other = BATCH.input_ids.copy()
    other[0, 0] += 1
    assert pack(other, BATCH.lengths) is not forest
    places = (BATCH.target_rows, BATCH.target_positions)
    wanted = WantedTokens.build(forest, *places)
    assert WantedTokens.build(forest, *places) is wanted
    assert WantedTokens.build(forest, *(x[1:] for x in places)).rows.shape == [BATCH.num_targets - 1]
    assert WantedTokens.build(Forest.grow(BATCH.input_ids, BATCH.lengths), *places) is not wanted


def test_the_tokens_of_passes_are_counted():
    model = build()
    predicting_hidden(model, BATCH)
    share_tokens(True)
    predicting_hidden(model, BATCH)
    given = int(BATCH.lengths.sum())
    assert (PASSED.given, PASSED.computed) == (given, given - SAVED)
    assert str(PASSED) == f"{given - SAVED:,} of {given:,} tokens computed (33% shared by rows that begin alike)"


def test_an_adapter_gets_the_same_gradients():
    model = build()
    attach_adapter(model, ADAPTER, seed=1)
    read = partial(policy_logprobs, batch=BATCH, temperature=1.0, with_entropy=False)
    assert_same_shared(model, lambda model: read(model)[0])


def test_rows_of_one_length_of_angles_share():
    """Phi-3 turns rows beyond its old context by other angles: both kinds share among themselves, in one batch."""
    use_native_ops(True)
    model = build(config=LONGROPE)
    long = [np.concatenate([PROMPTS[0], DRAWN.integers(0, 50, length)]) for length in (3, 9)]
    short = [PROMPTS[0][:20], np.concatenate([PROMPTS[0][:20], [7, 8]])]
    rows = [long[0], short[0], long[1], short[1]]
    batch = TokenBatch.build(rows, [np.arange(len(row) - 2, len(row)) for row in rows])
    read = partial(policy_logprobs, batch=batch, temperature=1.0, with_entropy=False)
    assert_same_shared(model, lambda model: read(model)[0])
    assert model.model.boundary_rows(batch) == int(batch.lengths.sum()) - 40 - 20


def test_rows_with_dropout_do_not_share():
    model = build()
    attach_adapter(model, replace(ADAPTER, dropout=0.1), seed=1)
    share_tokens(True)
    assert model.model.boundary_rows(BATCH) == int(BATCH.lengths.sum())
    predicting_hidden(model, BATCH)
    assert str(PASSED).endswith("alike; none with lora_dropout: every row drops other numbers)")


def test_a_model_whose_rows_do_not_share_says_why_once_beside_one_whose_rows_do():
    share_tokens(True)
    predicting_hidden(build(), BATCH)
    mixture = build(config=EXPERTS)
    for _ in range(2):
        predicting_hidden(mixture, BATCH)
    given = int(BATCH.lengths.sum())
    assert (PASSED.given, PASSED.computed) == (3 * given, 3 * given - SAVED)
    says = "shared by rows that begin alike; none with experts: their balance counts the tokens of every row)"
    assert str(PASSED).endswith(f"(11% {says}")
    share_tokens(True)
    assert "experts" not in str(PASSED)
