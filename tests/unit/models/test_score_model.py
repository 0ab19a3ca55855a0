"""Score models and their statistics equal safe-rlhf's numbers."""

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from alignment.architecture.decoder_config import DecoderConfig
from alignment.errors import ModelFolderError
from alignment.models.decoder.normalizers import ExponentialMovingAverage, build_normalizer
from alignment.models.decoder.score_model import ScoreModel, ScoreOptions, end_scores
from alignment.records import TokenBatch

CASES = json.loads((Path(__file__).parents[2] / "golden" / "safe_rlhf_vectors.json").read_text())["cases"]
CONFIG = DecoderConfig.from_dict(
    {
        "model_type": "llama",
        "vocab_size": 20,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
)
BATCH = TokenBatch.build([np.array([3, 4, 5]), np.array([6])], [np.empty(0, np.int64)] * 2)


@pytest.mark.parametrize("name", sorted(CASES["normalizers"]["results"]))
def test_normalizers_equal_the_oracle(name):
    kind, _, mode = name.partition("|")
    expected = CASES["normalizers"]["results"][name]
    normalizer = build_normalizer(None if kind == "None" else kind, 0.9)
    for batch, state in zip(CASES["normalizers"]["batches"], expected["states"], strict=True):
        normalizer.update(np.array(batch))
        found = normalizer.state()
        for key in ("mean", "var", "count"):
            assert found[key] == pytest.approx(state[key][0], abs=1e-9), key
    probe = normalizer.normalize(np.array(CASES["normalizers"]["probe"]), mode)
    np.testing.assert_allclose(probe, expected["normalized_probe"], atol=1e-9)


@pytest.mark.parametrize("name", ["RunningMeanStd", "ExponentialMovingAverage"])
def test_a_batch_of_one_gives_no_nan(name):
    normalizer = build_normalizer(name)
    normalizer.update(np.array([2.0]))
    assert np.isfinite([normalizer.mean, normalizer.var]).all()


def test_momentum_defaults_to_what_the_page_says():
    assert ExponentialMovingAverage(None).momentum == 0.9


def test_state_round_trip():
    first = build_normalizer("RunningMeanStd")
    first.update(np.array([1.0, 2.0, 4.0]))
    second = build_normalizer("RunningMeanStd")
    second.load_state(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()


def test_end_scores_equal_the_oracle():
    case = CASES["end_scores"]
    weight = paddle.to_tensor(np.array(case["weight_1xE"]).T, "float64")
    scores = paddle.matmul(paddle.to_tensor(np.array(case["hidden"]), "float64"), weight).squeeze(-1)
    np.testing.assert_allclose(scores.numpy(), np.array(case["scores"]).squeeze(-1), atol=1e-9)
    lengths = np.array(case["end_index"]) + 1
    np.testing.assert_allclose(end_scores(scores, lengths).numpy(), np.ravel(case["end_scores"]), atol=1e-9)


def test_a_row_of_one_token_has_its_score_at_that_token():
    model = ScoreModel(CONFIG, ScoreOptions())
    model.score.weight.set_value(paddle.ones([8, 1]))
    np.testing.assert_array_equal(model.read_end_scores(BATCH).numpy()[1], model(BATCH).numpy()[1, 0])


def _drawn(**options):
    model = ScoreModel(CONFIG, ScoreOptions(**options))
    paddle.seed(3)
    for parameter in model.parameters():
        parameter.set_value(paddle.randn(parameter.shape))
    return model


def test_a_loss_on_ends_has_the_scores_and_gradients_of_all_tokens():
    found = []
    for only_ends in (False, True):
        model = _drawn(normalizer_type="RunningMeanStd")
        model.train()
        scores = model.training_scores(BATCH, only_ends=only_ends)
        model.learn_statistics()
        end_scores(scores, BATCH.lengths).square().sum().backward()
        gradients = [parameter.grad.numpy() for parameter in model.parameters()]
        found.append((end_scores(scores, BATCH.lengths).numpy(), model.normalizer.state()["mean"], *gradients))
        assert scores.shape == [2, 3] and (np.count_nonzero(scores.numpy()) == 2) == only_ends
    for whole, ends in zip(*found, strict=True):
        np.testing.assert_allclose(ends, whole, rtol=1e-5, atol=1e-6)


def test_a_model_that_averages_needs_all_tokens_for_a_loss_on_ends_too():
    batch = TokenBatch.build([np.array([3, 4, 5])], [np.empty(0, np.int64)], {"answer_starts": np.array([1])})
    assert np.count_nonzero(_drawn(score_form="average").training_scores(batch, only_ends=True).numpy()) == 3


def test_statistics_learn_in_training_only_and_apply_when_asked():
    model = ScoreModel(CONFIG, ScoreOptions(do_normalize=True, normalizer_type="RunningMeanStd"))
    for parameter in model.parameters():
        parameter.set_value(paddle.randn(parameter.shape))
    model.eval()
    model.training_scores(BATCH)
    model.learn_statistics()
    assert not model.has_statistics
    model.train()
    before = end_scores(model.training_scores(BATCH), BATCH.lengths).numpy()
    model.learn_statistics()
    assert model.normalizer.count == 2
    after = end_scores(model.training_scores(BATCH), BATCH.lengths).numpy()
    assert after.mean() == pytest.approx(0.0, abs=1e-5)
    assert abs(before.mean()) > 1e-3


def test_statistics_do_not_depend_on_micro_batches():
    rows = [[3, 4, 5], [6], [7, 8]]
    whole, parts = (ScoreModel(CONFIG, ScoreOptions(normalizer_type="RunningMeanStd")) for _ in range(2))
    for model, splits in ((whole, [rows]), (parts, [rows[:1], rows[1:]])):
        paddle.seed(3)
        for parameter in model.parameters():
            parameter.set_value(paddle.randn(parameter.shape))
        model.train()
        for piece in splits:
            model.training_scores(TokenBatch.build([np.array(r) for r in piece], [np.empty(0, np.int64)] * len(piece)))
        model.learn_statistics()
    assert whole.normalizer.state() == pytest.approx(parts.normalizer.state(), abs=1e-5)


def test_scores_are_float32_whatever_the_decoder_computes_in():
    model = ScoreModel(CONFIG, ScoreOptions(), dtype="bfloat16")
    assert model.score.weight.dtype == paddle.float32
    assert model.token_scores(paddle.ones([1, 8], "bfloat16")).dtype == paddle.float32


def test_statistics_of_all_processes_are_learned():
    model, alone = (ScoreModel(CONFIG, ScoreOptions(normalizer_type="RunningMeanStd")) for _ in range(2))
    elsewhere = np.array([3.0, 5.0], np.float32)
    model.train()
    model.training_scores(BATCH)
    model.learn_statistics(lambda own: [elsewhere, *own])
    alone.normalizer.update(np.array([3.0, 5.0, 0.0, 0.0]))
    assert model.normalizer.state() == alone.normalizer.state()
    model.learn_statistics(lambda own: own)
    assert model.normalizer.count == 4, "nothing is learned twice"


def _averaging(**options):
    return _drawn(score_form="average", **options)


def test_a_model_that_averages_scores_the_tokens_of_the_answer():
    """A row that ends before its answer (its end was cut off) is scored at its last token."""
    batch = TokenBatch.build(
        [np.array([3, 4, 5]), np.array([6])], [np.empty(0, np.int64)] * 2, {"answer_starts": np.array([1, 4])}
    )
    model = _averaging()
    tokens = model(batch).numpy()
    np.testing.assert_allclose(model.read_end_scores(batch).numpy(), [tokens[0, 1:3].mean(), tokens[1, 0]], rtol=1e-6)


def test_a_model_that_averages_learns_the_statistics_of_its_averages():
    batch = TokenBatch.build([np.array([3, 4, 5])], [np.empty(0, np.int64)], {"answer_starts": np.array([1])})
    model = _averaging(normalizer_type="RunningMeanStd")
    model.train()
    model.training_scores(batch)
    model.learn_statistics()
    assert model.normalizer.mean == pytest.approx(model.read_end_scores(batch).item(), rel=1e-6)


def test_the_form_of_the_score_is_saved_and_an_unknown_one_refused():
    assert ScoreOptions.from_dict(ScoreOptions(score_form="average").to_dict()).score_form == "average"
    assert ScoreOptions.from_dict({}).score_form == "end"
    with pytest.raises(ModelFolderError, match="score_form='median' \\(allowed: end, average, steps\\)"):
        ScoreOptions.from_dict({"score_form": "median"})
