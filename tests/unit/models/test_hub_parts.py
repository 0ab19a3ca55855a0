"""A process of a layout reads its own part of a folder, and refuses what any other would refuse."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignment.architecture.decoder_config import DecoderConfig
from alignment.errors import ModelFolderError
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.placement import WHOLE, Placement
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders import hub
from alignment.models.folders.saving import save_model
from alignment.models.safetensors_io import Location, list_file
from alignment.parallel.comms.group import Group
from tests.tiny_models import TINY, tiny_causal, tiny_score

RAW = {**TINY, "vocab_size": 21, "intermediate_size": 11, "num_hidden_layers": 3, "num_attention_heads": 4,
       "num_key_value_heads": 2}  # fmt: skip
PLACEMENTS = [
    Placement(Group("tensor", range(size), rank=rank), stage, num_stages)
    for size, num_stages in ((1, 2), (2, 1), (4, 2))
    for rank in range(size)
    for stage in range(num_stages)
]


class _Tokenizer:
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __len__(self):
        return 20


@pytest.fixture(params=["llama", "qwen2", "qwen3"])
def model(request):
    return tiny_causal(**{**RAW, "model_type": request.param})


def assert_is_part_of(part, whole):
    weights = dict(whole.named_parameters())
    assert dict(part.named_parameters()).keys() == part.parts.keys()
    for name, parameter in part.named_parameters():
        assert np.array_equal(parameter.numpy(), weights[name].numpy()[part.parts[name].slices]), name


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_each_process_holds_its_part_of_the_folder(tmp_path, model):
    save_model(tmp_path, model, None)
    for placement in PLACEMENTS:
        assert_is_part_of(hub.load_causal_lm(tmp_path, placement=placement), model)


def test_no_process_reads_what_it_does_not_hold(tmp_path, model, monkeypatch):
    save_model(tmp_path, model, None)
    sizes = {}
    read = Location.read

    def record(location, slices=()):
        stored = read(location, slices)
        sizes[location.name] = stored.array.size
        return stored

    monkeypatch.setattr(Location, "read", record)
    for placement in PLACEMENTS:
        sizes.clear()
        loaded = hub.load_causal_lm(tmp_path, placement=placement)
        assert sizes == {name: part.size for name, part in loaded.parts.items()}


def test_a_rectangle_of_a_stored_tensor(tmp_path):
    arrays = {"a": np.arange(30, dtype=np.float32).reshape(5, 6), "none": np.zeros((0, 3), np.float32)}
    save_file(arrays, tmp_path / "model.safetensors")
    found = {location.name: location for location in list_file(tmp_path / "model.safetensors")}
    assert {name: location.shape for name, location in found.items()} == {"a": (5, 6), "none": (0, 3)}
    np.testing.assert_array_equal(found["a"].read((slice(1, 3), slice(2, 6))).array, arrays["a"][1:3, 2:6])
    assert found["none"].read((slice(0, 0), slice(1, 2))).array.shape == (0, 1)


@pytest.mark.parametrize("placement", [WHOLE, *PLACEMENTS])
def test_score_models_have_their_head_where_the_last_layer_is(tmp_path, placement):
    whole = tiny_score(ScoreOptions(score_bias=True), **RAW)
    save_model(tmp_path, whole, None)
    again = hub.load_score_model(tmp_path, placement=placement)
    assert_is_part_of(again, whole)
    assert (again.score is not None) == placement.is_last


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_new_score_head_is_the_same_in_every_layout(tmp_path, placement, model):
    save_model(tmp_path, model, None)
    whole, part = (hub.load_score_model(tmp_path, new_score_head=True, seed=3, placement=p) for p in (WHOLE, placement))
    assert_is_part_of(part, whole)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_random_models_are_the_same_in_every_layout(tmp_path, placement):
    (tmp_path / "config.json").write_text(json.dumps(RAW))
    causal, causal_part = (
        hub.random_causal_lm(tmp_path, seed=4, tokenizer=_Tokenizer(), placement=p) for p in (WHOLE, placement)
    )
    assert_is_part_of(causal_part, causal)
    score, score_part = (
        hub.random_score_model(tmp_path, ScoreOptions(), seed=4, tokenizer=_Tokenizer(), placement=p)
        for p in (WHOLE, placement)
    )
    assert_is_part_of(score_part, score)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"1 missing tensor.*model\.norm\.weight"),
        (lambda t: t.update({"model.extra": np.zeros(2, np.float32)}), r"1 unknown tensor.*model\.extra"),
        (
            lambda t: t.update({"model.layers.0.mlp.up_proj.weight": np.zeros((12, 8), np.float32)}),
            r"up_proj\.weight has shape \[12, 8\], config\.json needs \[11, 8\]",
        ),
    ],
)
def test_every_process_refuses_the_same_folders(tmp_path, placement, edit, message):
    whole = tiny_causal(**RAW)
    save_model(tmp_path, whole, None)
    change(tmp_path, edit)
    with pytest.raises(ModelFolderError, match=message):
        hub.load_causal_lm(tmp_path, placement=placement)


def test_the_process_that_holds_a_damaged_number_refuses_it(tmp_path):
    whole = CausalLM(DecoderConfig.from_dict(RAW))
    save_model(tmp_path, whole, None)

    def damage(tensors):
        tensors["lm_head.weight"][20, 0] = np.nan

    change(tmp_path, damage)
    hub.load_causal_lm(tmp_path, placement=Placement(Group("tensor", range(2), rank=0)))
    with pytest.raises(ModelFolderError, match=r"lm_head\.weight holds NaN"):
        hub.load_causal_lm(tmp_path, placement=Placement(Group("tensor", range(2), rank=1)))
