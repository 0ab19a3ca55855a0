"""Folders that people bring: what is read all the same, and what is refused by name and at once."""

from __future__ import annotations

import json
import os
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from alignment.architecture.decoder_config import DecoderConfig
from alignment.data.sources.packing import TOKENIZER
from alignment.errors import DataError, ModelFolderError
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders import hub
from alignment.models.folders.attribute_heads import StoredHead
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.records import TokenBatch
from tests.tiny_models import TINY, tiny_causal, tiny_score

IDS = np.array([[1, 2, 3, 4]])


def causal(folder, **changes):
    """Write a language model and return it."""
    model = tiny_causal(**changes)
    save_model(folder, model, None)
    return model


def scored(folder, **options):
    """Write a score model and return it."""
    model = tiny_score(ScoreOptions(**options))
    save_model(folder, model, None)
    return model


def change(folder, **keys):
    """Set keys of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def rewrite(folder, edit):
    """Change the tensors of the single file."""
    tensors = load_file(str(folder / "model.safetensors"))
    edit(tensors)
    save_file(tensors, str(folder / "model.safetensors"))


def logits(model):
    return model(IDS).numpy()


def write_index(folder, *files):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict(enumerate(files))}))


def test_a_stale_index_beside_the_single_file_is_not_read(tmp_path, caplog):
    model = causal(tmp_path)
    other = tmp_path / "model-00001-of-00001.safetensors"
    save_file({k: v + 1 for k, v in load_file(str(tmp_path / "model.safetensors")).items()}, str(other))
    write_index(tmp_path, other.name)
    np.testing.assert_array_equal(logits(hub.load_causal_lm(tmp_path)), logits(model))
    assert "the single file is read" in caplog.text


@pytest.mark.parametrize("keys", [{}, {"rope_theta": 1e6}])
def test_rope_scaling_goes_before_rope_parameters(keys):
    config = DecoderConfig.from_dict(
        {
            **TINY,
            **keys,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            "rope_scaling": {"type": "linear", "factor": 4.0},
        }
    )
    assert config.rope_scaling == {"rope_type": "linear", "factor": 4.0}
    assert config.rope_theta == keys.get("rope_theta", 1e4)
    plain, scaled = (
        DecoderConfig.from_dict({**TINY, **keys, "rope_scaling": s}).rotary_frequencies()[0]
        for s in (None, {"type": "linear", "factor": 4.0})
    )
    np.testing.assert_allclose(scaled * 4, plain)


def test_a_rotary_base_that_would_be_lost_is_refused():
    keys = {"rope_parameters": {"rope_theta": 5e5}, "rope_scaling": {"type": "linear", "factor": 4.0}}
    with pytest.raises(ModelFolderError, match=r"rope_theta 500000\.0 would be lost"):
        DecoderConfig.from_dict({**TINY, **keys})


def test_dynamic_rope_refuses_rows_that_need_other_angles(tmp_path):
    model = causal(tmp_path, rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    plain = causal(tmp_path / "plain")
    ids = np.arange(16)[None] % 20
    np.testing.assert_array_equal(model(ids).numpy(), plain(ids).numpy())
    with pytest.raises(DataError, match="a row of 17 tokens.*max_position_embeddings=16"):
        model(np.arange(17)[None])


NEOX = {"model_type": "gpt_neox", "rotary_pct": 1.0}
NEOX_NAMES = {"lm_head.weight": "embed_out.weight", "model.embed_tokens.weight": "gpt_neox.embed_in.weight"}


@pytest.mark.parametrize("changes", [{}, NEOX], ids=["llama", "gpt_neox"])
def test_a_head_that_is_not_the_tied_embedding_is_used(tmp_path, caplog, changes):
    model = causal(tmp_path, **changes)
    expected = logits(model)
    change(tmp_path, tie_word_embeddings=True)
    again = hub.load_causal_lm(tmp_path)
    np.testing.assert_array_equal(logits(again), expected)
    assert not again.config.tie_word_embeddings
    assert "embedding and head are not tied" in caplog.text
    save_model(tmp_path / "again", again, None)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize("dropped", [None, "lm_head.weight", "model.embed_tokens.weight"])
@pytest.mark.parametrize(("changes", "names"), [({}, {}), (NEOX, NEOX_NAMES)], ids=["llama", "gpt_neox"])
def test_a_tied_head_may_stand_in_the_file_twice_or_under_either_name(tmp_path, dropped, changes, names):
    model = causal(tmp_path, tie_word_embeddings=True, **changes)
    head, embedding = (names.get(name, name) for name in ("lm_head.weight", "model.embed_tokens.weight"))

    def edit(tensors):
        tensors[head] = tensors[embedding].copy()
        tensors.pop(names.get(dropped, dropped), None)

    rewrite(tmp_path, edit)
    again = hub.load_causal_lm(tmp_path)
    assert again.config.tie_word_embeddings
    np.testing.assert_array_equal(logits(again), logits(model))


@pytest.mark.parametrize("name", ["adapter_config.json", "lora_config.json"])
def test_an_adapter_is_called_one(tmp_path, name):
    (tmp_path / name).write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    with pytest.raises(ModelFolderError, match="this is an adapter of org/base.*merge it"):
        hub.load_causal_lm(tmp_path)


HEADS = (
    "v_head",
    "v_head.summary",
    "value_head",
    "regression_head",
    "classifier",
    "rm_head",
    "reward_head",
    "score_head",
)


@pytest.mark.parametrize("head", HEADS)
def test_names_of_score_heads(tmp_path, head):
    model = scored(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({f"{head}.weight": tensors.pop("score.weight")}))
    again = hub.load_score_model(tmp_path)
    np.testing.assert_array_equal(again.score.weight.numpy(), model.score.weight.numpy())


def test_a_head_of_another_name_is_listed_and_read_by_its_key(tmp_path):
    model = scored(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"my.judge.weight": tensors.pop("score.weight")}))
    with pytest.raises(ModelFolderError, match=r"value_head_prefix \(candidates: my\.judge\)"):
        hub.load_score_model(tmp_path)
    again = hub.load_score_model(tmp_path, stored_head=StoredHead("my.judge"))
    np.testing.assert_array_equal(again.score.weight.numpy(), model.score.weight.numpy())


def test_a_model_saved_inside_another_one_with_both_heads(tmp_path):
    model = scored(tmp_path)

    def wrap(tensors):
        for name in list(tensors):
            if name != "score.weight":
                tensors[f"pretrained_model.{name}"] = tensors.pop(name)
        tensors["v_head.summary.weight"] = tensors.pop("score.weight")
        tensors["pretrained_model.lm_head.weight"] = np.ones((20, 8), np.float32)
        tensors["v_head.summary.bias"] = np.zeros(1, np.float32)

    rewrite(tmp_path, wrap)
    again = hub.load_score_model(tmp_path)
    assert again.score.bias is None
    np.testing.assert_array_equal(again(batch()).numpy(), model(batch()).numpy())


def batch():
    return TokenBatch.build(list(IDS), [np.empty(0, np.int64)])


def test_a_bias_that_is_not_zero_is_kept(tmp_path):
    model = scored(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"score.bias": np.full(1, 2.5, np.float32)}))
    np.testing.assert_allclose(hub.load_score_model(tmp_path)(batch()).numpy(), model(batch()).numpy() + 2.5, rtol=1e-6)


def test_statistics_of_safe_rlhf_normalise_the_scores(tmp_path):
    scored(tmp_path, do_normalize=True, normalizer_type="RunningMeanStd")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "score_normalizer"}))
    rewrite(
        tmp_path,
        lambda tensors: tensors.update(
            {
                "normalizer.mean": np.float32([3.0]),
                "normalizer.var": np.float32([4.0]),
                "normalizer.count": np.array([9]),
            }
        ),
    )
    model = hub.load_score_model(tmp_path)
    assert model.has_statistics
    np.testing.assert_allclose(model.apply_normalization(np.array([7.0, 3.0])), [2.0, 0.0], rtol=1e-6)


def test_normalised_scores_without_statistics_are_called_raw(tmp_path, caplog):
    scored(tmp_path, do_normalize=True)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "score_normalizer"}))
    hub.load_score_model(tmp_path)
    assert "its scores are raw" in caplog.text


def test_swish_is_silu():
    assert DecoderConfig.from_dict({**TINY, "hidden_act": "swish"}).to_dict()["hidden_act"] == "silu"


def test_internlm_is_llama_with_biases():
    config = DecoderConfig.from_dict({**TINY, "model_type": "internlm", "bias": True})
    assert (config.model_type, config.attention_bias, config.attention_output_bias) == ("llama", True, True)
    assert not DecoderConfig.from_dict({**TINY, "bias": True, "score_type": "reward"}).attention_bias


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8])
def test_buffers_of_other_types_are_passed_over(tmp_path, dtype):
    model = causal(tmp_path)
    mask = np.ones((1, 1, 16, 16), dtype)
    rewrite(tmp_path, lambda tensors: tensors.update({"model.layers.0.self_attn.bias": mask}))
    np.testing.assert_array_equal(logits(hub.load_causal_lm(tmp_path)), logits(model))


def test_weights_of_whole_numbers_are_refused(tmp_path):
    causal(tmp_path)
    rewrite(tmp_path, lambda tensors: tensors.update({"model.norm.weight": np.ones(8, np.int8)}))
    with pytest.raises(ModelFolderError, match=r"model\.norm\.weight has dtype I8; weights must be floating point"):
        hub.load_causal_lm(tmp_path)


def leave_by_index(folder, outside):
    write_index(folder, "../outside.safetensors")


def leave_by_absolute_name(folder, outside):
    write_index(folder, str(outside))


def leave_by_link(folder, outside):
    os.symlink(outside, folder / "model.safetensors")


@pytest.mark.parametrize("leave", [leave_by_index, leave_by_absolute_name, leave_by_link])
def test_nothing_outside_of_the_folder_is_read(tmp_path, leave):
    folder, outside = tmp_path / "model", tmp_path / "outside.safetensors"
    causal(folder)
    (folder / "model.safetensors").rename(outside)
    leave(folder, outside)
    with pytest.raises(ModelFolderError, match="outside of the model folder"):
        hub.load_causal_lm(folder)


@pytest.mark.parametrize("place", ["models--org--name/snapshots/abc", "local"])
def test_the_links_of_the_hub_cache_are_read(tmp_path, place):
    snapshot = tmp_path / place
    model = causal(snapshot)
    blobs = tmp_path / "models--org--name" / "blobs"
    blobs.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        shutil.move(snapshot / name, blobs / name)
        os.symlink(blobs / name, snapshot / name)
    np.testing.assert_array_equal(logits(hub.load_causal_lm(snapshot)), logits(model))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers must be an integer from 1 to 10000"),
        ({"num_hidden_layers": 10_000}, "missing tensor"),
        ({"vocab_size": 2**31 - 1}, r"shape \[20, 8\], config.json needs \[2147483647, 8\]"),
        ({"hidden_size": 2**40}, "hidden_size must be"),
        ({"head_dim": 2**30}, "head_dim must be"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": "x"}}, "must be a number, found 'x'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0}}, "missing or bad number"),
        ({"rope_scaling": {"rope_type": "linear"}}, "missing or bad number"),
        ({"rope_scaling": {"full_attention": {"rope_type": "linear"}}}, "differ by layer"),
        ({"rope_theta": 0}, "rope_theta must be"),
        ({"rope_theta": 1, "rope_scaling": {"rope_type": "yarn", "factor": 2}}, "missing or bad number"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a number"),
        ({"model_type": ["llama"]}, "model_type"),
    ],
)
def test_a_lie_in_the_configuration_is_refused_at_once(tmp_path, keys, message):
    causal(tmp_path)
    change(tmp_path, **keys)
    with pytest.raises(ModelFolderError, match=message):
        hub.load_causal_lm(tmp_path)


def test_random_weights_that_no_memory_holds_are_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "vocab_size": 2**30, "hidden_size": 2**16}))
    with pytest.raises(ModelFolderError, match="describes a model of .* GiB"):
        hub.random_causal_lm(tmp_path, seed=0, tokenizer=load_tokenizer(TOKENIZER))


def test_json_that_is_nested_too_deeply_is_refused(tmp_path):
    causal(tmp_path)
    deep = "[" * 200_000 + "]" * 200_000
    header = f'{{"a": {deep}}}'.encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ModelFolderError, match=r"model\.safetensors: its header is damaged"):
        hub.load_causal_lm(tmp_path)
    (tmp_path / "config.json").write_text(f'{{"a": {deep}}}')
    with pytest.raises(ModelFolderError, match=r"config\.json: cannot be read as JSON"):
        hub.load_causal_lm(tmp_path)


@pytest.fixture
def tokenizer_folder(tmp_path):
    """Return a function: the packing tokenizer with keys of tokenizer_config.json set."""
    shutil.copytree(TOKENIZER, tmp_path / "tokenizer")
    path = tmp_path / "tokenizer" / "tokenizer_config.json"

    def make(**keys):
        path.write_text(json.dumps(json.loads(path.read_text()) | keys))
        return path.parent

    return make


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "'x' is not an id of an added token"),
        ({"added_tokens_decoder": {"-1": {"content": "a"}}}, "'-1' is not an id of an added token"),
        ({"added_tokens_decoder": {"9" * 5000: {"content": "a"}}}, "is not an id of an added token"),
        ({"added_tokens_decoder": [1]}, "added_tokens_decoder must be an object"),
        ({"chat_template": 5}, "chat_template must be text, or templates by name, found 5"),
        ({"chat_template": [5]}, "chat_template must be text"),
        ({"chat_template": {"rag": "x"}}, "no 'default'"),
    ],
)
def test_tokenizer_files_that_lie_are_refused(tokenizer_folder, keys, message):
    with pytest.raises(ModelFolderError, match=message):
        load_tokenizer(tokenizer_folder(**keys))


def test_a_tokenizer_file_outside_of_the_folder_is_not_read(tokenizer_folder, tmp_path):
    """It would be copied into everything that is saved."""
    folder, secret = tokenizer_folder(), tmp_path / "secret"
    secret.write_text("{{ 1 }}")
    os.symlink(secret, folder / "chat_template.jinja")
    with pytest.raises(ModelFolderError, match="'chat_template.jinja' leads to .*outside of the model folder"):
        load_tokenizer(folder)


def test_no_end_of_sequences_is_assumed():
    """Id 2 is what transformers assumes for llama, and an ordinary token of many tokenizers."""
    assert DecoderConfig.from_dict(TINY).eos_token_ids == ()
    assert DecoderConfig.from_dict({**TINY, "eos_token_id": [2, 2, 5]}).eos_token_ids == (2, 5)
