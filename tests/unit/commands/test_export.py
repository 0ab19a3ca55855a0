"""Export: one standard folder that gives the same logits, or none at all."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from safetensors.numpy import load_file, save_file

from alignment.commands import export
from alignment.errors import UserError
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders import hub
from alignment.models.folders.saving import save_model
from alignment.models.safetensors_io import list_tensors
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.records import TokenBatch

SHAPE = dict(
    model_type="qwen2",
    vocab_size=24,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=40,
)
ROW = np.array([1, 6, 12, 9, 2])


@pytest.fixture
def tokenizer(repo_root):
    return load_tokenizer(repo_root / "alignment" / "data" / "shipped" / "packing" / "tokenizer")


@pytest.fixture
def run(tmp_path, tokenizer):
    """The output folder of a run, with a policy."""
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    model = hub.random_causal_lm(tmp_path / "config.json", seed=1, tokenizer=tokenizer)
    save_model(tmp_path / "run" / "policy", model, tokenizer)
    return tmp_path / "run"


def save_reward(folder, tokenizer, **options):
    model = hub.random_score_model(folder.parent / "config.json", ScoreOptions(**options), seed=1, tokenizer=tokenizer)
    model.normalizer.update(np.array([1.0, 4.0]))
    save_model(folder, model, tokenizer)
    return model


@pytest.mark.parametrize("part", ["", "policy"])
def test_a_policy_in_float32_is_the_same_bit_for_bit(run, part, tmp_path, tokenizer):
    facts = export.export_model(run / part, tmp_path / "out", dtype="float32")
    assert facts["largest logit difference"] == 0.0
    before, after = (hub.load_causal_lm(folder)(ROW[None]).numpy() for folder in (run / "policy", tmp_path / "out"))
    np.testing.assert_array_equal(before, after)
    assert load_tokenizer(tmp_path / "out").fingerprint() == tokenizer.fingerprint()
    assert not list(tmp_path.glob(".*")), "nothing is left aside"


def test_bfloat16_rounds_once(run, tmp_path):
    export.export_model(run, tmp_path / "out", dtype="bfloat16")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    rounded = dict(hub.load_causal_lm(tmp_path / "out").named_parameters())
    for name, parameter in hub.load_causal_lm(run / "policy").named_parameters():
        expected = parameter.astype("bfloat16").astype("float32").numpy()
        np.testing.assert_array_equal(rounded[name].numpy(), expected, err_msg=name)


def test_a_reward_model_keeps_scores_and_statistics(run, tmp_path, tokenizer):
    model = save_reward(tmp_path / "reward", tokenizer, normalizer_type="RunningMeanStd")
    export.export_model(tmp_path / "reward", tmp_path / "out", dtype="float32")
    again = hub.load_score_model(tmp_path / "out")
    batch = TokenBatch.build([ROW], [np.empty(0, np.int64)])
    np.testing.assert_array_equal(again.read_end_scores(batch).numpy(), model.read_end_scores(batch).numpy())
    assert again.normalizer.state() == model.normalizer.state()


def test_a_reward_model_in_bfloat16_keeps_its_head_in_float32(run, tmp_path, tokenizer):
    model = save_reward(tmp_path / "reward", tokenizer)
    facts = export.export_model(tmp_path / "reward", tmp_path / "out", dtype="bfloat16")
    assert facts["largest logit difference"] == 0.0
    stored = {location.name: location.code for location in list_tensors(tmp_path / "out")}
    assert stored.pop("score.weight") == "F32"
    assert set(stored.values()) == {"BF16"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    again = dict(hub.load_score_model(tmp_path / "out").named_parameters())
    for name, parameter in model.named_parameters():
        expected = parameter if name == "score.weight" else parameter.astype("bfloat16").astype("float32")
        np.testing.assert_array_equal(again[name].numpy(), expected.numpy(), err_msg=name)


@pytest.mark.parametrize("dtype", export.DTYPES)
@pytest.mark.parametrize("stale", [{"dtype": "float16"}, {"torch_dtype": "float16"}])
def test_one_dtype_key_tells_what_the_weights_are(dtype, stale, run, tmp_path):
    """New folders of transformers have ``dtype``, older ones ``torch_dtype``; who finds both believes the first."""
    path = run / "policy" / "config.json"
    written = json.loads(path.read_text())
    del written["dtype"]
    path.write_text(json.dumps(written | stale))
    export.export_model(run, tmp_path / "out", dtype=dtype)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {key: value for key, value in config.items() if "dtype" in key} == {"dtype": dtype}


def test_a_bias_that_the_layout_cannot_hold_is_refused(run, tmp_path, tokenizer):
    model = save_reward(tmp_path / "reward", tokenizer, score_bias=True)
    export.export_model(tmp_path / "reward", tmp_path / "zero", dtype="float32")
    model.score.bias.set_value(paddle.full([1], 0.5))
    save_model(tmp_path / "reward", model, tokenizer)
    with pytest.raises(UserError, match=r"bias of 0\.5"):
        export.export_model(tmp_path / "reward", tmp_path / "out", dtype="float32")
    assert not (tmp_path / "out").exists()


def test_a_model_that_averages_is_refused_as_others_would_read_its_last_token(run, tmp_path, tokenizer):
    save_reward(tmp_path / "reward", tokenizer, score_form="average")
    with pytest.raises(UserError, match="trained with loss_type=average.*exported scores would be wrong"):
        export.export_model(tmp_path / "reward", tmp_path / "out", dtype="float32")
    assert not (tmp_path / "out").exists()


def test_a_difference_leaves_nothing_behind(run, tmp_path, monkeypatch):
    answers = iter([0.0, 1.0])
    monkeypatch.setattr("alignment.models.folders.probe.probe", lambda model: [paddle.to_tensor([next(answers)])])
    with pytest.raises(UserError, match="logits read back differ by 1; nothing was exported"):
        export.export_model(run, tmp_path / "out", dtype="float32")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "run"]


def test_logits_that_are_no_numbers_are_refused(run, tmp_path, monkeypatch):
    monkeypatch.setattr("alignment.models.folders.probe.probe", lambda model: [paddle.to_tensor([float("nan")])])
    with pytest.raises(UserError, match="differ by nan"):
        export.export_model(run, tmp_path / "out", dtype="float32")
    assert not (tmp_path / "out").exists()


def test_what_is_there_stays_unless_told(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="exists already"):
        export.export_model(run, tmp_path / "out", dtype="float32")
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"
    export.export_model(run, tmp_path / "out", dtype="float32", overwrite=True)
    assert not (tmp_path / "out" / "mine.txt").exists()


def test_a_folder_without_a_model_says_where_it_looked(tmp_path):
    with pytest.raises(UserError, match="policy.*reward.*value"):
        export.export_model(tmp_path, tmp_path / "out", dtype="float32")


def test_the_command_prints_what_it_did(run, tmp_path, capsys):
    export.main([str(run), str(tmp_path / "out")])
    assert "largest logit difference" in "".join(capsys.readouterr())


@pytest.mark.parametrize(("head", "key"), [("score_head", None), ("my.judge", "my.judge")])
def test_a_score_model_of_another_suite_is_known_by_its_head(head, key, run, tmp_path, tokenizer):
    """Its class has a name of its own; the export is a sequence classification model with the same scores."""
    model = save_reward(tmp_path / "theirs", tokenizer)
    tensors = load_file(str(tmp_path / "theirs" / "model.safetensors"))
    tensors[f"{head}.weight"] = tensors.pop("score.weight")
    save_file(tensors, str(tmp_path / "theirs" / "model.safetensors"))
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architectures": ["SomebodysRewardModel"]}))
    export.export_model(tmp_path / "theirs", tmp_path / "out", dtype="float32", head_prefix=key)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "Qwen2ForSequenceClassification"
    ]
    np.testing.assert_array_equal(
        hub.load_score_model(tmp_path / "out").score.weight.numpy(), model.score.weight.numpy()
    )


def test_settings_of_generation_and_all_ends_are_exported(run, tmp_path):
    path = run / "policy" / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [7], "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.1}))
    export.export_model(run, tmp_path / "out", dtype="float32")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert (written["temperature"], written["top_p"], written["repetition_penalty"]) == (0.6, 0.9, 1.1)
    assert (
        written["eos_token_id"] == json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == [2, 7]
    )


def test_logits_are_compared_on_the_cpu_unless_a_gpu_is_named(run, tmp_path, monkeypatch):
    selected = []
    monkeypatch.setattr("alignment.parallel.initialise.select_device", selected.append)
    export.main([str(run), str(tmp_path / "one")])
    export.main([str(run), str(tmp_path / "two"), "--device", "gpu"])
    assert selected == ["cpu", "gpu"]


def test_a_gpu_that_is_not_there_is_refused_and_nothing_is_written(run, tmp_path):
    with pytest.raises(UserError, match="device='gpu', but this Paddle sees no GPU; use device=cpu"):
        export.main([str(run), str(tmp_path / "out"), "--device", "gpu"])
    assert not (tmp_path / "out").exists()
