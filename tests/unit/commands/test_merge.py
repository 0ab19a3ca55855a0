"""Merging: the whole model that base and adapter are together, or nothing."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from alignment.architecture.adapter import Adapter, choose_modules
from alignment.commands.export import export_model
from alignment.commands.merge import main
from alignment.errors import UserError
from alignment.models.adapters import merged
from alignment.models.adapters.attach import attach_adapter
from alignment.models.adapters.folder import save_adapter, trained_weights
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders.hub import load_causal_lm, load_score_model
from alignment.models.folders.probe import largest_difference, probe
from alignment.models.folders.saving import WeightSource, save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from tests.tiny_models import tiny_causal, tiny_score

VOCABULARY = 64


@pytest.fixture
def tokenizer(repo_root):
    return load_tokenizer(repo_root / "alignment" / "data" / "shipped" / "packing" / "tokenizer")


def _write(folder, model, tokenizer, *, name="policy"):
    """Write ``model`` as the base, and a trained adapter of it as a run would; return the adapted model."""
    save_model(folder / "base", model, tokenizer)
    adapter = Adapter(rank=2, alpha=4, modules=choose_modules(model.config, ["all-linear"]), base=str(folder / "base"))
    attach_adapter(model, adapter, seed=1)
    for key, parameter in model.named_parameters():
        if key.endswith("lora_B.weight"):
            parameter.set_value(paddle.full(parameter.shape, 0.1, parameter.dtype))
    save_adapter(folder / "run" / name, model, tokenizer, trained_weights(WeightSource.of(model)))
    return model


@pytest.mark.parametrize("source", ["run", "run/policy"])
def test_the_merged_folder_computes_what_base_and_adapter_do(source, tmp_path, tokenizer, capsys):
    model = _write(tmp_path, tiny_causal(vocab_size=VOCABULARY), tokenizer)
    main([str(tmp_path / source), str(tmp_path / "out")])
    read = load_causal_lm(tmp_path / "out")
    assert largest_difference(probe(read), probe(model)) < 2e-5
    assert largest_difference(probe(load_causal_lm(tmp_path / "base")), probe(model)) > 1e-2
    assert "merged and read back" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("adapter*")) and (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_merged_reward_model_has_the_head_and_the_statistics_of_the_adapter(tmp_path, tokenizer):
    options = ScoreOptions(do_normalize=True, normalizer_type="RunningMeanStd")
    model = tiny_score(options, vocab_size=VOCABULARY)
    save_model(tmp_path / "base", tiny_causal(vocab_size=VOCABULARY), tokenizer)
    model.normalizer.update(np.array([1.0, 4.0]))
    _write(tmp_path / "other", model, tokenizer, name="reward")
    export_model(tmp_path / "other" / "run", tmp_path / "out", dtype="float32", base=str(tmp_path / "other" / "base"))
    read = load_score_model(tmp_path / "out")
    assert largest_difference(probe(read), probe(model)) < 2e-5
    assert read.normalizer.state() == model.normalizer.state() and read.options.do_normalize


def test_another_base_is_told(tmp_path, tokenizer, caplog):
    _write(tmp_path, tiny_causal(vocab_size=VOCABULARY), tokenizer)
    path = tmp_path / "run" / "policy" / "alignment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base": "content of another"}))
    export_model(tmp_path / "run", tmp_path / "out", dtype="float32")
    assert any("has other weights than the base that this adapter was trained with" in m for m in caplog.messages)


def test_a_merge_that_changes_outputs_leaves_nothing_behind(tmp_path, tokenizer, monkeypatch):
    _write(tmp_path, tiny_causal(vocab_size=VOCABULARY), tokenizer)
    monkeypatch.setattr(merged, "merge_into_base", lambda model: setattr(model.model.adapter, "is_on", False))
    with pytest.raises(UserError, match="merging changes outputs of up to"):
        export_model(tmp_path / "run", tmp_path / "out", dtype="float32")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["base", "out"], "no adapter there: neither it nor its policy/ holds adapter_config.json"),
        (["run", "base"], "exists already"),
        (["run", "out", "--base", "nowhere"], "no such folder"),
        (["run", "run/policy", "--overwrite"], "holds the model that is exported"),
    ],
)
def test_what_cannot_be_merged_is_refused(argv, says, tmp_path, tokenizer, monkeypatch):
    _write(tmp_path, tiny_causal(vocab_size=VOCABULARY), tokenizer)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        main(argv)


def test_an_adapter_that_names_no_base_needs_one(tmp_path, tokenizer):
    _write(tmp_path, tiny_causal(vocab_size=VOCABULARY), tokenizer)
    path = tmp_path / "run" / "policy" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(UserError, match="names no base model; give it with --base"):
        export_model(tmp_path / "run", tmp_path / "out", dtype="float32")
    export_model(tmp_path / "run", tmp_path / "out", dtype="float32", base=str(tmp_path / "base"))
