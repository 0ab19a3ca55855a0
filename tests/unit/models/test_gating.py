"""Gating networks: the score by hand, saved and read back whole or not at all, and refused where they do not fit."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from alignment.commands.export import export_model
from alignment.errors import ModelFolderError
from alignment.models.decoder.gating import GatingOptions
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders.attribute_heads import StoredHead
from alignment.models.folders.hub import load_score_model
from alignment.models.folders.saving import save_model
from alignment.models.safetensors_io import SINGLE_FILE
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.records import TokenBatch
from alignment.runs.on_policy.roles import load_critic
from tests.contract.keys.assembled import TOKENIZER
from tests.tiny_models import tiny_causal, tiny_score

LABELS = ("helpfulness", "correctness", "safety")
SMALL = GatingOptions(hidden_size=5, num_layers=2, temperature=2.0, scale=3.0, length_penalties=(0.5, 0.0, -0.25))
ROWS = [np.array([3, 4, 5, 6]), np.array([6, 7])]
BATCH = TokenBatch.build(ROWS, [np.empty(0, np.int64)] * 2, {"answer_starts": np.array([2, 1])})


@pytest.fixture
def model(tmp_path):
    """A gated model with random weights, saved in the folder."""
    made = tiny_score(ScoreOptions(labels=LABELS, gating=SMALL), std=0.5, vocab_size=64)
    save_model(tmp_path, made, load_tokenizer(TOKENIZER))
    return made


def by_hand(model):
    """The formula in numpy: softmax(network(prompt) / temperature) * scale, times scores less their length's worth."""
    weights = {name: p.numpy().astype(np.float64) for name, p in model.named_parameters()}
    hidden = model.model(BATCH.input_ids, lengths=BATCH.lengths).numpy().astype(np.float64)
    expected = []
    for row, (start, length) in enumerate([(2, 4), (1, 2)]):
        x = hidden[row, start - 1]
        for layer in range(3):
            x = (np.maximum(x, 0) if layer else x) @ weights[f"gating.{layer}.weight"] + weights[f"gating.{layer}.bias"]
        share = np.exp(x / 2) / np.exp(x / 2).sum() * 3
        scores = hidden[row, length - 1] @ weights["score.weight"]
        expected.append((share * (scores - (length - start) * np.array([0.5, 0, -0.25]))).sum())
    return expected


def test_the_score_by_hand(model):
    np.testing.assert_allclose(model.read_end_scores(BATCH).numpy(), by_hand(model), rtol=1e-4)
    assert model.read_attributes(BATCH).shape == [2, 3]


def test_the_weights_of_a_prompt_do_not_depend_on_its_answer(model):
    """Changing the answer and a prompt of equal end changes what is weighed, not the weights."""
    hidden = model.model(BATCH.input_ids, lengths=BATCH.lengths)
    weights = model.gating(hidden[:, 0]).numpy()
    assert weights.shape == (2, 3) and (weights > 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 3.0, rtol=1e-6)


def test_it_is_saved_and_read_back(model, tmp_path):
    again = load_score_model(tmp_path)
    assert again.options == model.options
    np.testing.assert_array_equal(again.read_end_scores(BATCH).numpy(), model.read_end_scores(BATCH).numpy())
    assert json.loads((tmp_path / "config.json").read_text())["num_labels"] == 3, "transformers reads the attributes"


def test_it_is_exported_with_all_its_parts(model, tmp_path):
    export_model(tmp_path, tmp_path / "exported", dtype="float32")
    again = load_score_model(tmp_path / "exported")
    np.testing.assert_array_equal(again.read_end_scores(BATCH).numpy(), model.read_end_scores(BATCH).numpy())


@pytest.mark.parametrize("lost", ["gating.1.bias", "gating.0.weight"])
def test_a_network_of_which_a_part_is_missing_is_refused(model, tmp_path, lost):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(tmp_path / SINGLE_FILE)
    save_file({name: t for name, t in tensors.items() if name != lost}, tmp_path / SINGLE_FILE, {"format": "pt"})
    for head in (StoredHead(), StoredHead(keeps_attributes=True, gating=SMALL)):
        with pytest.raises(ModelFolderError, match=f"1 missing tensor.s.: {lost}"):
            load_score_model(tmp_path, stored_head=head)


@pytest.mark.parametrize(
    ("entry", "message"),
    [({"hidden_size": 5}, "gating=.*allowed: an object of hidden_size"), (7, "gating=7"), (None, "unknown tensor")],
)
def test_a_description_that_does_not_fit_the_weights_is_refused(model, tmp_path, entry, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "gating": entry}))
    with pytest.raises(ModelFolderError, match=message):
        load_score_model(tmp_path, stored_head=StoredHead(keeps_attributes=True))


def test_weights_beside_the_networks_are_refused(model, tmp_path):
    with pytest.raises(ModelFolderError, match="reward_attribute_weights=1,2,3, but its gating network weighs"):
        load_score_model(tmp_path, stored_head=StoredHead(weights=(1.0, 2.0, 3.0)))


def test_a_model_with_one_score_or_none_gets_no_network(tmp_path):
    for made in (tiny_score(), tiny_causal()):
        save_model(tmp_path, made, None)
        with pytest.raises(
            ModelFolderError, match="objective=gating weighs the scores .* one score or none; train its"
        ):
            load_score_model(tmp_path, stored_head=StoredHead(keeps_attributes=True, gating=SMALL))


def test_a_network_is_drawn_from_the_seed_and_the_rest_is_read(tmp_path):
    made = tiny_score(ScoreOptions(labels=LABELS))
    save_model(tmp_path, made, None)
    head = StoredHead(keeps_attributes=True, gating=SMALL)
    one, same, other = (load_score_model(tmp_path, stored_head=head, seed=seed) for seed in (3, 3, 4))
    for name, parameter in made.named_parameters():
        np.testing.assert_array_equal(dict(one.named_parameters())[name].numpy(), parameter.numpy())
    hidden = paddle.randn([2, 8])
    np.testing.assert_array_equal(one.gating(hidden).numpy(), same.gating(hidden).numpy())
    assert not np.array_equal(one.gating(hidden).numpy(), other.gating(hidden).numpy())
    assert len({str(parameter.numpy()) for name, parameter in one.gating.named_parameters() if "weight" in name}) == 3


def test_a_critic_takes_the_model_below_and_starts_from_a_head_of_zeros(model, tmp_path):
    critic = load_critic(str(tmp_path))
    assert critic.options.num_labels == 1 and critic.gating is None
    assert float(critic.score.weight.abs().max()) == 0.0
    np.testing.assert_array_equal(
        critic.model.embed_tokens.weight.numpy(), dict(model.named_parameters())["model.embed_tokens.weight"].numpy()
    )


def test_a_regression_goes_on_with_the_attributes_of_a_gated_model(model, tmp_path):
    options = ScoreOptions(labels=LABELS)
    head = StoredHead(keeps_attributes=True)
    again = load_score_model(tmp_path, options=options, new_score_head=True, stored_head=head)
    assert again.gating is None
    np.testing.assert_array_equal(again.score.weight.numpy(), model.score.weight.numpy())
