"""Translate tokenizer files of PaddleNLP, and of older Hugging Face classes, into files that need no tokenizer class.

What PaddleNLP's classes do in Python is written into the files: a sentencepiece model gets its usual name, vocabulary
and merges become a ``tokenizer.json``, and special tokens given as plain strings swallow the white space around them.
``chat_template.json`` becomes a Jinja template.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from alignment.architecture.paddlenlp_config import VERSION_KEY
from alignment.errors import ModelFolderError
from alignment.models.folder_files import file_inside, parse_json, parse_object

FAST_NAME, _CONFIG_NAME, _SPECIAL_MAP_NAME = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
SENTENCEPIECE_NAME = "sentencepiece.bpe.model"
TEMPLATE_NAME = "chat_template.json"
VOCABULARY_NAMES = ("vocab.json", "merges.txt")
NAMES = (SENTENCEPIECE_NAME, TEMPLATE_NAME)
"""Files that only PaddleNLP writes."""

_SPLITS = {
    "Qwen2Tokenizer": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""The pattern that splits a text into words, by tokenizer class; vocabulary and merges do not contain it."""
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
_WRAPPED = {"Qwen2Tokenizer": ("bos_token", "eos_token", "unk_token", "pad_token")}
"""Special tokens that never swallow white space, even as plain strings, by tokenizer class."""


def translate(contents: Mapping[str, bytes], root: Path) -> dict[str, bytes]:
    """Return the files (name to bytes) of the tokenizer in ``root`` in Hugging Face's form."""
    files = dict(contents)
    is_paddle = SENTENCEPIECE_NAME in files or _was_written_by_paddlenlp(root)
    if SENTENCEPIECE_NAME in files:
        model = files.pop(SENTENCEPIECE_NAME)
        if files.setdefault("tokenizer.model", model) != model:
            raise ModelFolderError(f"{root}: {SENTENCEPIECE_NAME} and tokenizer.model differ; remove the wrong one")
    config = parse_object(files.get(_CONFIG_NAME, b"{}"), root / _CONFIG_NAME)
    before = dict(config)
    is_slow = FAST_NAME not in files
    if is_slow and "tokenizer.model" not in files and set(VOCABULARY_NAMES) <= files.keys():
        files[FAST_NAME] = build_fast_file(files, config.get("tokenizer_class"), place=str(root))
    if TEMPLATE_NAME in files:
        config["chat_template"] = read_template(files.pop(TEMPLATE_NAME), place=str(root / TEMPLATE_NAME))
    if is_paddle:
        config |= _keep_newline(config)
    if is_paddle and is_slow:
        special_map = parse_object(files.pop(_SPECIAL_MAP_NAME, b"{}"), root / _SPECIAL_MAP_NAME)
        config |= with_white_space(config, special_map) | {"legacy": True}
        config["added_tokens_decoder"] = _with_white_space_listed(config)
    if config != before:
        files[_CONFIG_NAME] = json.dumps(config, indent=2, ensure_ascii=False).encode("utf-8")
    return files


def _was_written_by_paddlenlp(root: Path) -> bool:
    path = root / "config.json"
    return path.is_file() and f'"{VERSION_KEY}"'.encode() in file_inside(root, path.name).read_bytes()


def _keep_newline(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template with a final newline doubled: PaddleNLP keeps it, and Jinja drops one by default."""
    template = config.get("chat_template")
    return {"chat_template": template + "\n"} if isinstance(template, str) and template.endswith("\n") else {}


def _with_white_space_listed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``added_tokens_decoder`` with the flags that ``config`` gives special tokens by name."""
    named = [config.get(name) for name in _NAMED] + config["additional_special_tokens"]
    flags = {token["content"]: {name: token.get(name, False) for name in _FLAGS} for token in named if token}
    listed = config.get("added_tokens_decoder") or {}
    return {
        number: {**token, **flags.get(token.get("content"), {}), "special": token.get("content") in flags}
        if isinstance(token, dict)
        else token
        for number, token in listed.items()
    }


def build_fast_file(contents: Mapping[str, bytes], class_name: Any, *, place: str) -> bytes:
    """Return the ``tokenizer.json`` of a byte-level BPE stored as vocabulary and merges."""
    if class_name not in _SPLITS:
        raise ModelFolderError(
            f"{place}: {' and '.join(VOCABULARY_NAMES)} without tokenizer.json do not say how to split words, and "
            f"tokenizer_class {class_name!r} is not known (known: {', '.join(_SPLITS)})"
        )
    try:
        vocabulary = json.loads(contents["vocab.json"].decode("utf-8"))
        lines = contents["merges.txt"].decode("utf-8").split("\n")
        merges = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version:")]
        tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # the library raises bare Exception for everything
        raise ModelFolderError(f"{place}: vocab.json and merges.txt cannot be read as a BPE ({error})") from error
    cut = pre_tokenizers.Split(tokenizers.Regex(_SPLITS[class_name]), behavior="isolated")
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer.to_str().encode("utf-8")


def with_white_space(config: Mapping[str, Any], special_map: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``special_map`` completed from ``config``, with tokens as objects with explicit white space flags."""
    keeps = _WRAPPED.get(config.get("tokenizer_class"), ())
    merged: dict[str, Any] = {}
    for name in _NAMED:
        value = special_map.get(name, config.get(name))
        if isinstance(value, str) or _is_token(value):
            merged[name] = _with_flags(value, takes=name not in keeps)
    extra = special_map.get("additional_special_tokens", config.get("additional_special_tokens")) or []
    known = {token["content"] for token in merged.values()}
    merged["additional_special_tokens"] = [
        _with_flags(value, takes=True)
        for value in extra
        if _is_token(value) or (isinstance(value, str) and value not in known)
    ]
    return merged


def _is_token(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("content"), str)


def _with_flags(value: Any, *, takes: bool) -> Any:
    if isinstance(value, str):
        value = {"content": value, **dict.fromkeys(_FLAGS, False), "lstrip": takes, "rstrip": takes}
    return {**value, "special": True, "__type": "AddedToken"}


def read_template(content: bytes, *, place: str) -> str:
    """Return the Jinja template in a ``chat_template.json``: PaddleNLP's parts joined, or its ``chat_template``.

    PaddleNLP renders ``system``, then ``conversation`` for each pair of turns with ``user`` and ``bot``, then ``query``
    for a final question.
    """
    parts = parse_json(content, place)
    if isinstance(parts, dict) and isinstance(parts.get("chat_template"), str):
        return parts["chat_template"]
    turns = parts.get("conversation") if isinstance(parts, dict) else None
    texts = [*(turns or []), parts.get("system") or "", parts.get("query") or ""] if isinstance(parts, dict) else []
    if not isinstance(turns, list) or not turns or not all(isinstance(text, str) for text in texts):
        raise ModelFolderError(f"{place}: expected texts 'system', 'conversation' (a list) and 'query'")
    *turns, system, query = texts
    return _join_template(system, turns, query or "{{ query }}")


def _join_template(system: str, turns: list[str], query: str) -> str:
    """Return one template that renders each part as if it were alone.

    The empty output on both sides of a part protects its white space from the neighbouring tags.
    """
    guarded = ["{{ '' }}" + part + "{{ '' }}" for part in (system, "".join(turns), query)]
    return (
        "{% set is_training = false %}{% set length = (messages | length + 1) // 2 %}" + guarded[0] + "{% for message "
        "in messages %}{% if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') %}"
        "{{ raise_exception('this template has user and assistant in turn, and no other roles') }}{% endif %}"
        "{% set index = loop.index0 // 2 %}{% set is_first = index == 0 %}{% set is_last = index == length - 1 %}"
        "{% if message['role'] == 'assistant' %}{% set user = messages[loop.index0 - 1]['content'] %}"
        "{% set bot = message['content'] %}" + guarded[1] + "{% elif loop.last %}"
        "{% set query = message['content'] %}" + guarded[2] + "{% endif %}{% endfor %}"
    )
