"""Model folders: what is written is read back, and whatever does not fit is refused by name."""

import json
import struct

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from alignment.architecture.decoder_config import DecoderConfig
from alignment.errors import ModelFolderError, NotFiniteError
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders import hub
from alignment.models.folders.naming import Match, refuse_mismatch
from alignment.models.folders.saving import save_model
from alignment.models.safetensors_io import read_tensors
from tests.tiny_models import TINY, tiny_causal, tiny_score

IDS = np.array([[1, 2, 3, 4]])


def _rewrite(folder, change):
    tensors = load_file(str(folder / "model.safetensors"))
    change(tensors)
    save_file(tensors, str(folder / "model.safetensors"))


@pytest.mark.parametrize("changes", [{}, {"model_type": "qwen2"}, {"tie_word_embeddings": True}])
def test_round_trip_gives_the_same_logits(tmp_path, changes):
    model = tiny_causal(**changes)
    save_model(tmp_path, model, None)
    again = hub.load_causal_lm(tmp_path)
    np.testing.assert_array_equal(model(IDS).numpy(), again(IDS).numpy())
    stored = {s.name: s.array for s in read_tensors(tmp_path)}
    assert ("lm_head.weight" in stored) != bool(changes.get("tie_word_embeddings"))
    assert stored["model.layers.0.mlp.up_proj.weight"].shape == (12, 8), "files hold [out, in]"
    assert stored["model.embed_tokens.weight"].shape == (20, 8)


def test_files_hold_tensors_in_the_order_of_the_model(tmp_path):
    model = tiny_causal(model_type="qwen3", num_hidden_layers=11)
    save_model(tmp_path, model, None)
    assert [s.name for s in read_tensors(tmp_path)] == [name for name, _ in model.named_parameters()]


def test_a_reward_model_keeps_its_head_and_statistics(tmp_path):
    options = ScoreOptions(normalizer_type="ExponentialMovingAverage", normalizer_momentum=0.8, do_normalize=True)
    model = tiny_score(options)
    model.normalizer.update(np.array([1.0, 3.0]))
    save_model(tmp_path, model, None)
    again = hub.load_score_model(tmp_path)
    assert again.options == options
    assert again.normalizer.state() == model.normalizer.state()
    np.testing.assert_array_equal(again.score.weight.numpy(), model.score.weight.numpy())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["num_labels"] == 1
    assert config["pad_token_id"] is None, "EOS is no padding, and there is no other id"


def test_a_language_model_becomes_a_reward_model_only_when_asked(tmp_path):
    save_model(tmp_path, tiny_causal(), None)
    with pytest.raises(ModelFolderError, match=r"missing tensor.*score\.weight"):
        hub.load_score_model(tmp_path)
    first, second = (hub.load_score_model(tmp_path, new_score_head=True, seed=3).score.weight.numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first).max() > 0


def test_heads_of_other_suites_are_found(tmp_path):
    model = tiny_score(ScoreOptions(score_bias=True))
    save_model(tmp_path, model, None)

    def rename(tensors):
        tensors["score_head.weight"] = tensors.pop("score.weight")
        tensors["score_head.bias"] = tensors.pop("score.bias") + 1.5
        tensors["normalizer.mean"] = np.zeros(1, np.float32)

    _rewrite(tmp_path, rename)
    again = hub.load_score_model(tmp_path)
    np.testing.assert_array_equal(again.score.weight.numpy(), model.score.weight.numpy())
    assert again.score.bias.numpy().tolist() == [1.5]


def test_bfloat16_is_read_and_written_exactly(tmp_path):
    model = tiny_causal(dtype="bfloat16")
    save_model(tmp_path, model, None)
    again = hub.load_causal_lm(tmp_path, dtype="bfloat16")
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=name)
    wide = dict(hub.load_causal_lm(tmp_path).named_parameters())
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(wide[name].numpy(), parameter.astype("float32").numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-7]), "cut short or damaged"),
        (lambda p: p.write_bytes(b""), r"not a safetensors file.*0 bytes"),
        (lambda p: p.write_bytes(struct.pack("<Q", 10**12) + b"{}"), "not a safetensors file"),
        (lambda p: p.write_bytes(struct.pack("<Q", 5) + b'{"a":' + b"x" * 20), "header is damaged"),
        (lambda p: p.unlink(), r"no weights; looked for model\.safetensors, .*model_state\.pdparams"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage, message):
    save_model(tmp_path, tiny_causal(), None)
    damage(tmp_path / "model.safetensors")
    with pytest.raises(ModelFolderError, match=message) as error:
        hub.load_causal_lm(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_pickled_weights_are_fetched_only_where_there_are_no_others(tmp_path, monkeypatch, weights):
    asked = []

    def download(name, allow_patterns):
        asked.append(allow_patterns)
        (tmp_path / weights).touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert hub.resolve_model_folder("some/model") == tmp_path
    assert {"*.safetensors", "merges.txt"} <= set(asked[0]) and "*.bin" not in asked[0]
    assert asked[1:] == ([] if weights == "model.safetensors" else [["*.bin", "*.pdparams"]])


def test_a_file_under_the_name_of_another_format_is_refused(tmp_path):
    save_model(tmp_path, tiny_causal(), None)
    (tmp_path / "model.safetensors").rename(tmp_path / "model_state.pdparams")
    with pytest.raises(ModelFolderError, match=r"model_state\.pdparams: damaged, or not pickled weights"):
        hub.load_causal_lm(tmp_path)


def test_missing_unknown_and_misshapen_tensors_are_refused(tmp_path):
    save_model(tmp_path, tiny_causal(), None)

    def swap(tensors):
        tensors.pop("model.norm.weight")
        tensors["model.extra"] = np.zeros(2, np.float32)

    _rewrite(tmp_path, swap)
    expected = r"1 missing tensor.*model\.norm\.weight.*1 unknown tensor.*model\.extra"
    with pytest.raises(ModelFolderError, match=expected):
        hub.load_causal_lm(tmp_path)
    save_model(tmp_path, tiny_causal(), None)
    _rewrite(tmp_path, lambda t: t.update({"model.norm.weight": np.zeros(9, np.float32)}))
    with pytest.raises(ModelFolderError, match=r"model\.norm\.weight has shape \[9\], config\.json needs \[8\]"):
        hub.load_causal_lm(tmp_path)


class _Tokenizer:
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tmp_path):
    save_model(tmp_path, tiny_causal(), None)
    hub.load_causal_lm(tmp_path, tokenizer=_Tokenizer(20))
    with pytest.raises(ModelFolderError, match="21 tokens, the model's vocabulary 20"):
        hub.load_causal_lm(tmp_path, tokenizer=_Tokenizer(21))


def test_a_name_that_is_no_folder_and_not_on_the_hub_is_refused(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelFolderError, match="'no-such/model': no such folder"):
        hub.resolve_model_folder("no-such/model")


def test_random_weights_depend_on_the_seed_alone(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    first, again, other = (
        dict(hub.random_causal_lm(tmp_path, seed=s, tokenizer=_Tokenizer(20)).named_parameters()) for s in (1, 1, 2)
    )
    paddle.seed(5)
    name = "model.layers.0.mlp.up_proj.weight"
    np.testing.assert_array_equal(first[name].numpy(), again[name].numpy())
    assert (first[name] != other[name]).any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
def test_a_weight_that_is_not_finite_is_not_saved(tmp_path, name, dtype, value):
    model = CausalLM(DecoderConfig.from_dict(TINY), dtype=dtype)
    weight = dict(model.named_parameters())[name]
    numbers = np.zeros(weight.shape, np.float32)
    numbers[0, :3] = 3e38, -3e38, 1e-40
    weight.set_value(paddle.to_tensor(numbers).astype(dtype))
    save_model(tmp_path / "large", model, None)
    numbers[-1, -1] = value
    weight.set_value(paddle.to_tensor(numbers).astype(dtype))
    with pytest.raises(NotFiniteError, match=f"{name} holds NaN or infinite numbers"):
        save_model(tmp_path / "ruined", model, None)


def test_a_score_model_in_place_of_a_language_model_is_named_also_with_tied_embeddings():
    for missing in ([], ["lm_head.weight"]):
        with pytest.raises(ModelFolderError, match=r"It is a score model \(reward model or critic\) where a language"):
            refuse_mismatch(Match(missing, ["score.weight"]), folder="folder")
