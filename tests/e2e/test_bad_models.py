"""Model folders that are missing, damaged or do not fit: said before anything is trained, with the file."""

from __future__ import annotations

import numpy as np
import pytest
import runs
from refusals import message_of, refuse
from safetensors.numpy import load_file, save_file

WEIGHTS = "model.safetensors"
UP = "model.layers.0.mlp.up_proj.weight"

pytestmark = pytest.mark.e2e


def _change(change):
    """Return a function that rewrites the weights of a folder."""

    def edit(folder):
        tensors = load_file(str(folder / WEIGHTS))
        change(tensors)
        save_file(tensors, str(folder / WEIGHTS))

    return edit


def _cut(length):
    return lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:length])


DAMAGES = {
    "no weights": (lambda f: (f / WEIGHTS).unlink(), ["no weights", WEIGHTS]),
    "no config": (lambda f: (f / "config.json").unlink(), ["config.json: no such file"]),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), ["looked for tokenizer.json and tokenizer.model"]),
    "config is not JSON": (lambda f: (f / "config.json").write_text("{"), ["config.json: cannot be read as JSON"]),
    "tokenizer is not one": (lambda f: (f / "tokenizer.json").write_text("{}"), ["tokenizer.json: cannot be read"]),
    "empty file": (_cut(0), [WEIGHTS, "0 bytes"]),
    "cut in the header": (_cut(100), [WEIGHTS, "cut short", "100 bytes"]),
    "cut in the data": (_cut(-100), [WEIGHTS, "cut short or damaged"]),
    "not safetensors": (lambda f: (f / WEIGHTS).write_bytes(b"\0\xff" * 4000), [WEIGHTS, "not a safetensors file"]),
    "missing tensor": (_change(lambda t: t.pop(UP)), [f"1 missing tensor(s): {UP}"]),
    "unknown tensor": (_change(lambda t: t.update(extra=np.zeros(2, np.float32))), ["1 unknown tensor(s): extra"]),
    "wrong shape": (_change(lambda t: t.update({UP: t[UP][:3].copy()})), [UP, "[3, 32]", "[64, 32]"]),
    "NaN": (_change(lambda t: t.update({UP: t[UP] * np.float32("nan")})), [UP, "NaN"]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_folders(name, sft_arguments, model_variant, tmp_path):
    damage, says = DAMAGES[name]
    folder = model_variant()
    damage(folder)
    refuse("sft", {**sft_arguments, "model_name_or_path": folder}, tmp_path, str(folder), *says)


@pytest.mark.parametrize("header", [b"[1]", b'{"a": 1}', b'{"a": {"data_offsets": [0, 0], "shape": [0]}}'])
def test_damaged_headers(header, sft_arguments, model_variant, tmp_path):
    folder = model_variant()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    refuse("sft", {**sft_arguments, "model_name_or_path": folder}, tmp_path, str(folder / WEIGHTS), "damaged")


def _shrink(folder):
    names = ("model.embed_tokens.weight", "lm_head.weight")
    _change(lambda t: t.update({name: t[name][:8].copy() for name in names}))(folder)
    return folder


@pytest.mark.parametrize("trainer", ["sft", "rm", "ppo"])
def test_a_tokenizer_with_more_tokens_than_the_model(
    trainer, sft_arguments, rm_arguments, ppo_arguments, model_variant, tmp_path
):
    folder = _shrink(model_variant(vocab_size=8))
    made = {"sft": sft_arguments, "rm": rm_arguments, "ppo": ppo_arguments}[trainer]
    key = "actor_model_name_or_path" if trainer == "ppo" else "model_name_or_path"
    refuse(trainer, {**made, key: folder}, tmp_path, str(folder), "24 tokens", "vocabulary 8")


@pytest.mark.parametrize(
    ("trainer", "key"),
    [
        ("sft", "model_name_or_path"),
        ("sft", "model_config_name_or_path"),
        ("rm", "model_name_or_path"),
        ("ppo", "actor_model_name_or_path"),
        ("ppo", "reward_model_name_or_path"),
        ("ppo", "reward_critic_model_name_or_path"),
    ],
)
def test_max_length_beyond_the_positions_of_the_model(trainer, key, request, model_variant, tmp_path):
    made = dict(request.getfixturevalue(f"{trainer}_arguments"))
    source = request.getfixturevalue("rm_folder") / "reward" if "reward" in key else None
    folder = model_variant(max_position_embeddings=63, source=source)
    if key == "model_config_name_or_path":
        del made["model_name_or_path"]
        made["tokenizer_name_or_path"] = runs.TOKENIZER
    refuse(trainer, {**made, key: folder}, tmp_path, "max_length=64", "max_position_embeddings=63", "at most 63")


def test_a_language_model_is_no_reward_model_and_the_other_way_round(ppo_arguments, tmp_path):
    language, reward = ppo_arguments["actor_model_name_or_path"], ppo_arguments["reward_model_name_or_path"]
    swapped = {**ppo_arguments, "reward_model_name_or_path": language}
    refuse("ppo", swapped, tmp_path, str(language), "no score head", "run_reward.py")
    refuse("ppo", {**ppo_arguments, "actor_model_name_or_path": reward}, tmp_path, str(reward), "is a score model")


def test_a_critic_with_another_tokenizer_is_refused(ppo_arguments, other_tokenizer, tmp_path):
    made = {**ppo_arguments, "tokenizer_name_or_path": other_tokenizer}
    critic = str(ppo_arguments["reward_model_name_or_path"])
    refuse("ppo", made, tmp_path, critic, "another tokenizer", "reward_critic_model_name_or_path")


def test_folders_that_do_not_exist(sft_arguments, model_variant, tmp_path, monkeypatch):
    message = refuse("sft", {**sft_arguments, "model_name_or_path": "./none/model"}, tmp_path, "'./none/model'")
    assert f"tried {tmp_path}/none/model" in message
    file = model_variant() / "config.json"
    refuse("sft", {**sft_arguments, "model_name_or_path": file}, tmp_path, str(file))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made = {**sft_arguments, "model_name_or_path": "nobody/model", "output_dir": tmp_path / "out"}
    message_of(runs.run("sft", made, tmp_path), "'nobody/model'", str(tmp_path), "hub")
