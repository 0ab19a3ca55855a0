"""Folders of models and tokenizers that are damaged, hostile or of another kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from bench import Bench, Case
from safetensors.numpy import load_file, save_file

WEIGHTS = "model.safetensors"
UP = "model.layers.0.mlp.up_proj.weight"
Damage = Callable[[Path], object]


def _case(name: str, damage: Damage, *says: str) -> Case:
    return Case(name, "sft", {"model_name_or_path": "{here}/m"}, ("{here}/m", *says), lambda b: damage(b.copy()))


def _config(name: str, *says: str, **keys: object) -> Case:
    def prepare(bench: Bench) -> None:
        bench.edit(bench.copy() / "config.json", **keys)

    return Case(f"config: {name}", "sft", {"model_name_or_path": "{here}/m"}, ("{here}/m", *says), prepare)


def _tokenizer(name: str, *says: str, **keys: object) -> Case:
    def prepare(bench: Bench) -> None:
        bench.edit(bench.copy() / "tokenizer_config.json", **keys)

    return Case(f"tokenizer: {name}", "sft", {"model_name_or_path": "{here}/m"}, ("{here}/m", *says), prepare)


def _tensors(change: Callable[[dict], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(str(folder / WEIGHTS))
        change(tensors)
        save_file(tensors, str(folder / WEIGHTS))

    return damage


def _header(header: bytes) -> Damage:
    return lambda folder: (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)


def _text(file: str, content: str) -> Damage:
    return lambda folder: (folder / file).write_text(content)


def _cut(length: int) -> Damage:
    return lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:length])


def _index(**weight_map: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return damage


def _only(*names: str) -> Damage:
    """Leave these files alone in the folder (made where they are missing)."""

    def damage(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        for name in names:
            (folder / name).write_text("{}")

    return damage


def _tokens(change: Callable[[dict], object]) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return damage


def _no_end_token(folder: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if key != "eos_token"}))


def _pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "model_state.pdparams").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")


MODEL_CASES = (
    _case("no weights", lambda f: (f / WEIGHTS).unlink()),
    _case("no config", lambda f: (f / "config.json").unlink(), "config.json"),
    _case("no tokenizer", lambda f: (f / "tokenizer.json").unlink(), "tokenizer"),
    _case("an empty file of weights", _cut(0), WEIGHTS),
    _case("a header cut short", _cut(100), WEIGHTS, "cut short"),
    _case("data cut short", _cut(-100), WEIGHTS),
    _case("no safetensors", lambda f: (f / WEIGHTS).write_bytes(b"\0\xff" * 4000), WEIGHTS),
    _case("a header that is a list", _header(b"[1]"), WEIGHTS, "damaged"),
    _case("a header without types", _header(b'{"a": 1}'), WEIGHTS, "damaged"),
    _case("a header of nested lists", _header(b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"), WEIGHTS),
    _case("offsets that overlap", _header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 99]}}'), WEIGHTS),
    _case("a negative shape", _header(b'{"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}'), WEIGHTS),
    _case("a missing tensor", _tensors(lambda t: t.pop(UP)), UP),
    _case("an unknown tensor", _tensors(lambda t: t.update(extra=np.zeros(2, np.float32))), "extra"),
    _case("a wrong shape", _tensors(lambda t: t.update({UP: t[UP][:3].copy()})), UP, "[3, 32]"),
    _case("a NaN", _tensors(lambda t: t.update({UP: t[UP] * np.float32("nan")})), UP, "NaN"),
    _case("an infinity", _tensors(lambda t: t.update({UP: t[UP] * np.float32("inf")})), UP),
    _case("an index that leaves the folder", _index(**{UP: "../outside.safetensors"}), "outside"),
    _case("an index with an absolute path", _index(**{UP: "/etc/hostname"}), "hostname"),
    _case("an index of missing shards", _index(**{UP: "model-00001-of-00002.safetensors"}), "model-00001-of-00002"),
    _case("an index that is no JSON", lambda f: (_index()(f), _text(f"{WEIGHTS}.index.json", "{")(f)), "index.json"),
    _case("an adapter alone", _only("adapter_config.json", "adapter_model.safetensors"), "adapter"),
    _case("an empty folder", _only(), "config.json: no such file"),
    _case("a hostile pickle", _pickle, "model_state.pdparams"),
    _case("a pickle that is none", lambda f: (_pickle(f), (f / "model_state.pdparams").write_bytes(b"abc"))),
    _case("a config that is no JSON", _text("config.json", "{"), "config.json"),
    _case("a config that is a list", _text("config.json", "[]"), "config.json"),
    _config("an unknown family", "gpt9", model_type="gpt9"),
    _config("no family", "model_type", model_type=None, architectures=None),
    _config("a billion layers", "num_hidden_layers", num_hidden_layers=10**9),
    _config("no layers", "num_hidden_layers", num_hidden_layers=0),
    _config("text for a width", "hidden_size", hidden_size="wide"),
    _config("heads the weights do not have", "q_proj.weight has shape [32, 32]", num_attention_heads=3),
    _config("an unknown activation", "hidden_act", hidden_act="softly"),
    _config("an unknown rotary scaling", "rope", rope_scaling={"rope_type": "magic", "factor": 2}),
    _config("a yarn factor that is text", "factor", rope_scaling={"rope_type": "yarn", "factor": "x"}),
    _config("a smaller vocabulary than the tokenizer's", "vocabulary", vocab_size=8),
    _config("a vocabulary the weights do not have", "embed_tokens", "[1000, 32]", vocab_size=1000),
    _config("dropout of another planet", "intermediate_size", intermediate_size=-4),
    _config("a width of NaN", "hidden_size", hidden_size=float("nan")),
    _tokenizer("a template that is a number", "chat_template", chat_template=3),
    _tokenizer("a template that cannot be parsed", "chat template", chat_template="{% if %}"),
    _tokenizer("a template that refuses", "not today", chat_template="{{ raise_exception('not today') }}"),
    _tokenizer("a template that divides by zero", "division", chat_template="{{ 1 // 0 }}"),
    _tokenizer("a template that reaches for Python", chat_template="{{ ''.__class__.__mro__ }}"),
    _case("no end token", _no_end_token, "eos_token"),
    _tokenizer(
        "an added token with a bad id", "tokenizer_config.json", "'x'", added_tokens_decoder={"x": {"content": "<a>"}}
    ),
    _case("a tokenizer that is no JSON", _text("tokenizer.json", "{"), "tokenizer.json"),
    _case("a tokenizer without a model", _text("tokenizer.json", "{}"), "tokenizer.json"),
    _case("a tokenizer with another model", _tokens(lambda t: t["model"].update(type="Magic")), "tokenizer.json"),
    _case("special tokens that are no JSON", _text("special_tokens_map.json", "["), "special_tokens_map.json"),
    _case("a generation config that is no JSON", _text("generation_config.json", "["), "generation_config.json"),
    Case(
        "no template",
        "sft",
        {"model_name_or_path": "{here}/m"},
        ("no chat template", "chat_template=none"),
        lambda b: b.edit(b.copy() / "tokenizer_config.json", chat_template=None),
    ),
    Case("a model folder that is a file", "sft", {"model_name_or_path": "{policy}/config.json"}, ("config.json",)),
    Case("a folder that is not there", "sft", {"model_name_or_path": "./none"}, ("'./none'", "does not exist")),
    Case("a reward model", "sft", {"model_name_or_path": "{reward}"}, ("score",)),
    Case("a reward model as policy", "ppo", {"actor_model_name_or_path": "{reward}"}, ("score",)),
    Case("a language model as reward model", "ppo", {"reward_model_name_or_path": "{policy}"}, ("score head",)),
    Case(
        "too few positions",
        "ppo",
        {"actor_model_name_or_path": "{here}/m"},
        ("max_position_embeddings=63",),
        lambda b: b.edit(b.copy() / "config.json", max_position_embeddings=63),
    ),
)
