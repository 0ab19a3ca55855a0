"""Folders that PaddleNLP wrote give PaddleNLP's logits; see ``benchmarks/paddlenlp_golden.py``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest

from alignment.errors import ModelFolderError
from alignment.models.config import read_config
from alignment.models.decoder.placement import Placement
from alignment.models.folders.hub import holds_score_model, load_causal_lm, load_score_model
from alignment.models.folders.saving import save_model
from alignment.models.folders.weight_files import find_weight_files
from alignment.models.folders.weights import find_weights
from alignment.parallel.comms.group import Group
from alignment.records import TokenBatch

FOLDERS = Path(__file__).parent / "paddlenlp"
SCORE = "qwen2-score"
NAMES = sorted(path.name for path in FOLDERS.iterdir() if path.is_dir())
CAUSAL = [name for name in NAMES if name != SCORE]


def outputs(name):
    """Return token ids [1, T] and what PaddleNLP computes of them."""
    with np.load(FOLDERS / name / "outputs.npz") as file:
        return file["ids"].astype(np.int64), file["outputs"]


def logits(folder, ids):
    model = load_causal_lm(folder)
    model.eval()
    return model(paddle.to_tensor(ids)).numpy()


def test_every_format_and_family_has_a_folder():
    assert {name.partition("-")[0] for name in NAMES} == {"llama", "mistral", "qwen2"}
    assert len(NAMES) == 23
    files = {name: [path.name for part in find_weight_files(FOLDERS / name).parts for path in part] for name in NAMES}
    assert files["llama"] == ["model_state.pdparams"]
    assert files["llama-parts"] == ["model_state.tp00.pdparams", "model_state.tp01.pdparams"]
    assert files["llama-sharded"] == [f"model_state-0000{n}-of-00003.pdparams" for n in (1, 2, 3)]
    assert files["qwen2-safetensors"] == ["model.safetensors"]


@pytest.mark.parametrize("name", CAUSAL)
def test_logits_are_those_of_paddlenlp(name):
    ids, expected = outputs(name)
    np.testing.assert_allclose(logits(FOLDERS / name, ids), expected, atol=1e-5)


def test_scores_are_those_of_paddlenlp():
    ids, expected = outputs(SCORE)
    model = load_score_model(FOLDERS / SCORE)
    model.eval()
    batch = TokenBatch.build(list(ids), [np.empty(0, np.int64)])
    np.testing.assert_allclose(model.read_end_scores(batch).numpy(), expected.ravel(), atol=1e-5)


@pytest.mark.parametrize("degree", [1, 2])
def test_a_reward_model_of_its_rlhf_scripts_is_read_with_its_statistics(tmp_path, degree):
    """``Qwen2ModelForScore``: the same decoder, a head of another name, and statistics as tensors."""
    ids, expected = outputs(SCORE)
    folder = shutil.copytree(FOLDERS / SCORE, tmp_path / "model")
    state = paddle.load(str(folder / "model_state.pdparams"), return_numpy=True)
    state["score_head.weight"] = state.pop("score.weight")
    numbers = {"mean": np.float32([0.5]), "var": np.float32([4.0]), "count": np.int64([9])}
    state |= {f"normalizer.{name}": value for name, value in numbers.items()}
    (folder / "model_state.pdparams").unlink()
    for rank in range(degree):
        name = "model_state.pdparams" if degree == 1 else f"model_state.tp0{rank}.pdparams"
        paddle.save({key: cut(key, value, degree, rank) for key, value in state.items()}, str(folder / name))
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), "architectures": ["Qwen2ModelForScore"], "score_type": "reward"}
    path.write_text(json.dumps({**config, "do_normalize": True, "normalizer_type": "RunningMeanStd", "bias": False}))
    assert holds_score_model(folder)
    model = load_score_model(folder)
    model.eval()
    scores = model.read_end_scores(TokenBatch.build(list(ids), [np.empty(0, np.int64)]))
    normalized = model.apply_normalization(scores).numpy()
    np.testing.assert_allclose(normalized, (expected.ravel() - 0.5) / 2, atol=1e-5)


def cut(name, value, degree, rank):
    """Return the part of a process as PaddleNLP cuts it: columns, rows, or all."""
    is_column = name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight"))
    is_row = name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight"))
    if is_column or name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")):
        return np.array_split(value, degree, axis=-1)[rank]
    return np.array_split(value, degree)[rank] if is_row else value


@pytest.mark.parametrize(
    "name", ["llama", "llama-parts", "llama-fused-parts", "qwen2-fused-parts", "qwen2-safetensors"]
)
def test_each_process_of_a_layout_holds_its_part(name):
    whole = dict(load_causal_lm(FOLDERS / name).named_parameters())
    for rank in range(2):
        part = load_causal_lm(FOLDERS / name, placement=Placement(Group("tensor", range(2), rank=rank)))
        for parameter, value in part.named_parameters():
            expected = whole[parameter].numpy()[part.parts[parameter].slices]
            assert np.array_equal(value.numpy(), expected), parameter


def test_what_is_saved_again_is_an_ordinary_folder(tmp_path):
    ids, expected = outputs("llama-ntk")
    save_model(tmp_path, load_causal_lm(FOLDERS / "llama-ntk"), None)
    np.testing.assert_allclose(logits(tmp_path, ids), expected, atol=1e-5)
    config = json.loads((tmp_path / "config.json").read_text())
    assert not {"paddlenlp_version", "rope_scaling_type", "alibi", "seq_length"} & config.keys()
    assert config["max_position_embeddings"] == 256


def test_bfloat16_stands_in_files_as_whole_numbers_of_16_bits():
    folder = FOLDERS / "llama-bfloat16"
    found = find_weights(folder, read_config(folder))
    assert {tensor.code for tensor in found.values()} == {"BF16"}


def test_a_missing_part_is_named(tmp_path):
    folder = shutil.copytree(FOLDERS / "llama-parts-4", tmp_path / "model")
    (folder / "model_state.tp03.pdparams").unlink()
    with pytest.raises(ModelFolderError, match=r"the 3 tensor-parallel parts of llama.*is a part missing"):
        load_causal_lm(folder)
    (folder / "model_state.tp01.pdparams").unlink()
    with pytest.raises(ModelFolderError, match="but not part 1 of stage 0"):
        load_causal_lm(folder)


def test_a_tensor_that_a_part_lacks_is_named(tmp_path):
    folder = shutil.copytree(FOLDERS / "llama-parts", tmp_path / "model")
    path = str(folder / "model_state.tp01.pdparams")
    state = paddle.load(path, return_numpy=True)
    del state["llama.norm.weight"]
    paddle.save(state, path)
    with pytest.raises(ModelFolderError, match=r"llama\.norm\.weight is not in tensor-parallel part 1 of 2"):
        load_causal_lm(folder)


def test_a_tensor_in_two_stages_is_refused(tmp_path):
    folder = shutil.copytree(FOLDERS / "llama", tmp_path / "model")
    for stage in range(2):
        shutil.copy(folder / "model_state.pdparams", folder / f"model_state.pp0{stage}.pdparams")
    (folder / "model_state.pdparams").unlink()
    with pytest.raises(ModelFolderError, match=r"holds llama\.embed_tokens\.weight more than once"):
        load_causal_lm(folder)


def test_a_whole_model_beside_parts_is_refused(tmp_path):
    folder = shutil.copytree(FOLDERS / "llama-parts", tmp_path / "model")
    shutil.copy(FOLDERS / "llama" / "model_state.pdparams", folder)
    with pytest.raises(ModelFolderError, match=r"\(model_state\.pdparams\) and parts of one \(model_state\.tp00"):
        load_causal_lm(folder)


def test_parts_of_pipeline_stages_are_put_together(tmp_path):
    from paddle import load, save

    folder = shutil.copytree(FOLDERS / "llama-tied", tmp_path / "model")
    state = load(str(folder / "model_state.pdparams"), return_numpy=True)
    (folder / "model_state.pdparams").unlink()
    first = {name: value for name, value in state.items() if "layers.0" in name or "embed" in name}
    last = {name: value for name, value in state.items() if name not in first or "embed" in name}
    for stage, part in enumerate((first, last)):
        save(part, str(folder / f"model_state.pp0{stage}.pdparams"))
    ids, expected = outputs("llama-tied")
    np.testing.assert_allclose(logits(folder, ids), expected, atol=1e-5)


def test_a_window_that_paddlenlp_ignores_is_said(tmp_path, caplog):
    folder = shutil.copytree(FOLDERS / "mistral", tmp_path / "model")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sliding_window": 4}))
    load_causal_lm(folder)
    assert "has sliding_window 4, which is applied here but ignored by PaddleNLP" in caplog.text


def test_safetensors_are_read_where_a_folder_holds_both(tmp_path, caplog):
    folder = shutil.copytree(FOLDERS / "llama-safetensors", tmp_path / "model")
    (folder / "model_state.pdparams").write_bytes(b"not weights")
    ids, expected = outputs("llama-safetensors")
    np.testing.assert_allclose(logits(folder, ids), expected, atol=1e-5)
    assert "its safetensors files are read, model_state.pdparams is not" in caplog.text
