"""One score of the scores of steps: by hand, saved with the model, and refused where a folder does not say how."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from alignment.commands.export import export_model
from alignment.errors import ModelFolderError
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.decoder.step_scores import aggregate_steps, step_ends
from alignment.models.folders.hub import load_score_model
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.records import TokenBatch
from tests.contract.keys.assembled import TOKENIZER
from tests.tiny_models import tiny_score

STEP = 9
ROWS = [np.array([9, 4, 5, 9, 6, 9, 7]), np.array([3, 9, 4, 6])]
"""The first answer has two steps and ends without one; the second has none: its prompt holds the only token."""
BATCH = TokenBatch.build(ROWS, [np.empty(0, np.int64)] * 2, {"answer_starts": np.array([2, 2])})


def test_steps_end_at_their_token_in_the_answer_or_at_the_last_token():
    found = step_ends(BATCH, STEP)
    assert [row.nonzero()[0].tolist() for row in found] == [[3, 5], [3]]


@pytest.mark.parametrize(("how", "expected"), [("min", 0.2), ("product", 0.12), ("mean", 0.4), ("last", 0.2)])
def test_aggregates_by_hand(how, expected):
    """Probabilities 0.6 and 0.2 of two steps; other tokens do not matter."""
    odds = np.log([[0.999 / 0.001, 0.6 / 0.4, 0.001 / 0.999, 0.2 / 0.8, 0.99 / 0.01]]).astype(np.float32)
    is_step = paddle.to_tensor([[False, True, False, True, False]])
    assert float(aggregate_steps(paddle.to_tensor(odds), is_step, how)[0]) == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def model(tmp_path):
    options = ScoreOptions(score_form="steps", step_token_id=STEP, step_aggregation="min")
    made = tiny_score(options, std=0.5, vocab_size=64)
    save_model(tmp_path, made, load_tokenizer(TOKENIZER))
    return made


def test_a_model_scores_rows_by_their_steps_also_when_read_back(model, tmp_path):
    tokens = 1 / (1 + np.exp(-model(BATCH).numpy().astype(np.float64)))
    again = load_score_model(tmp_path)
    assert again.options == model.options
    expected = [min(tokens[0, 3], tokens[0, 5]), tokens[1, 3]]
    np.testing.assert_allclose(again.read_end_scores(BATCH).numpy(), expected, rtol=1e-5)


def test_other_suites_would_read_another_score_so_it_is_not_exported(model, tmp_path):
    with pytest.raises(ModelFolderError, match="it scores the steps of an answer"):
        export_model(tmp_path, tmp_path / "exported", dtype="float32")


@pytest.mark.parametrize("change", [{"step_token_id": None}, {"step_aggregation": "max"}])
def test_a_folder_that_does_not_say_how_is_refused(model, tmp_path, change):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelFolderError, match="score_form=steps with step_token_id=.*min, product, mean, last"):
        load_score_model(tmp_path)
