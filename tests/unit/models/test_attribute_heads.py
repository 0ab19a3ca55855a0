"""Score heads with several outputs: saved and read back, combined, and refused where they do not fit."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from alignment.errors import ModelFolderError
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders.attribute_heads import StoredHead
from alignment.models.folders.hub import load_score_model
from alignment.models.folders.saving import save_model
from alignment.records import TokenBatch
from tests.tiny_models import tiny_causal, tiny_score

LABELS = ("helpfulness", "correctness", "verbosity")
BATCH = TokenBatch.build([np.array([3, 4, 5]), np.array([6])], [np.empty(0, np.int64)] * 2)
KEEP = StoredHead(keeps_attributes=True)


@pytest.fixture
def model(tmp_path):
    """A model with three scores and a bias, saved in the folder."""
    made = tiny_score(ScoreOptions(labels=LABELS, score_bias=True), std=0.5)
    made.score.bias.set_value(paddle.to_tensor([1.0, -2.0, 0.5]))
    save_model(tmp_path, made, None)
    return made


def test_a_score_for_each_label_at_every_token_and_at_the_end(model):
    tokens, ends = model(BATCH).numpy(), model.read_end_scores(BATCH).numpy()
    assert tokens.shape == (2, 3, 3) and ends.shape == (2, 3)
    np.testing.assert_allclose(ends, [tokens[0, 2], tokens[1, 0]], rtol=1e-6)


def test_labels_are_saved_as_in_hugging_faces_format_and_read_back(model, tmp_path):
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["num_labels"] == 3
    assert config["id2label"] == {"0": "helpfulness", "1": "correctness", "2": "verbosity"}
    assert config["label2id"] == {"helpfulness": 0, "correctness": 1, "verbosity": 2}
    again = load_score_model(tmp_path, stored_head=KEEP)
    assert again.options == model.options
    np.testing.assert_array_equal(again.read_end_scores(BATCH).numpy(), model.read_end_scores(BATCH).numpy())


def test_the_weighted_sum_of_the_scores_is_one_score(model, tmp_path):
    weights = (1.0, -0.5, 0.25)
    combined = load_score_model(tmp_path, stored_head=StoredHead(weights=weights))
    assert combined.options.num_labels == 1
    expected = model.read_end_scores(BATCH).numpy() @ np.array(weights, np.float32)
    np.testing.assert_allclose(combined.read_end_scores(BATCH).numpy(), expected, rtol=1e-5)


def test_a_head_without_names_has_numbered_ones(model, tmp_path):
    """Transformers writes no num_labels where there are 2, and a folder may lack them altogether."""
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: v for key, v in config.items() if key not in ("num_labels", "id2label")}))
    assert load_score_model(tmp_path, stored_head=KEEP).options.labels == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (StoredHead(), r"has 3 scores \(helpfulness, correctness, verbosity\) where one is needed; .*3 numbers"),
        (StoredHead(weights=(1.0, 2.0)), "has 2 number.* has 3 scores: helpfulness, correctness, verbosity"),
    ],
)
def test_several_scores_are_refused_where_one_is_needed(model, tmp_path, head, message):
    with pytest.raises(ModelFolderError, match=message):
        load_score_model(tmp_path, stored_head=head)


def test_other_labels_than_those_of_the_folder_are_refused(model, tmp_path):
    options = ScoreOptions(labels=("verbosity", "correctness", "helpfulness"))
    with pytest.raises(ModelFolderError, match=r"3 output.*attributes asks for 3: verbosity, correctness, helpful"):
        load_score_model(tmp_path, options=options, new_score_head=True, stored_head=KEEP)


def test_a_number_of_labels_that_the_head_does_not_have_is_refused(model, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_labels": 5}))
    with pytest.raises(ModelFolderError, match=r"num_labels=5, and the score head score\.weight has 3 output"):
        load_score_model(tmp_path, stored_head=KEEP)


def test_weights_for_a_model_with_one_score_are_refused(tmp_path):
    save_model(tmp_path, tiny_score(), None)
    with pytest.raises(ModelFolderError, match=r"reward_attribute_weights=1,2, but it has a single score"):
        load_score_model(tmp_path, stored_head=StoredHead(weights=(1.0, 2.0)))


def test_a_language_model_gets_a_new_head_with_all_labels(tmp_path):
    save_model(tmp_path, tiny_causal(), None)
    options = ScoreOptions(labels=LABELS)
    found = load_score_model(tmp_path, options=options, new_score_head=True, seed=3, stored_head=KEEP)
    assert list(found.score.weight.shape) == [8, 3] and found.score.weight.abs().max() > 0
