"""Read a tokenizer's files: special tokens, added tokens, chat template."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignment.errors import ModelFolderError
from alignment.models.folder_files import file_inside, parse_object
from alignment.models.tokenizer import paddlenlp_tokenizer

FAST_FILE = "tokenizer.json"
SENTENCEPIECE_FILE = "tokenizer.model"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_MAP_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
TEMPLATE_FILE = "chat_template.jinja"
COMPANION_FILES = (CONFIG_FILE, SPECIAL_MAP_FILE, ADDED_FILE, TEMPLATE_FILE, "vocab.json", "merges.txt")

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LARGEST_ID = 2**31
_EXTRA_NAMES = ("additional_special_tokens", "extra_special_tokens")


@dataclass(frozen=True)
class AddedToken:
    """A token added to the model's vocabulary; text is searched for these before it is tokenised."""

    content: str
    id: int | None = None
    """None: its id in the vocabulary, else the next free one."""
    special: bool = False
    """True: left out by ``decode(skip_special_tokens=True)``."""
    lstrip: bool = False
    """True: swallows the white space before it."""
    rstrip: bool = False
    """True: swallows the white space after it."""
    single_word: bool = False
    normalized: bool = False


@dataclass(frozen=True)
class TokenizerFiles:
    """The files of one tokenizer, in memory: the folder may be gone when they are saved again."""

    folder: Path
    contents: Mapping[str, bytes]
    """Bytes by file name."""
    config: Mapping[str, Any]
    special_tokens: Mapping[str, str]
    """Text by name (``bos_token`` and so on), without those that are not set."""
    added_tokens: tuple[AddedToken, ...]
    """Those with an id, sorted by it, then special tokens without an entry of their own."""
    chat_template: str | None


def read_tokenizer_files(folder: str | Path) -> TokenizerFiles:
    """Read the tokenizer in ``folder``; ModelFolderError names the folder and what was looked for."""
    root = Path(folder)
    if not root.is_dir():
        raise ModelFolderError(f"{folder}: no such folder; expected a tokenizer ({FAST_FILE} or {SENTENCEPIECE_FILE})")
    names = (FAST_FILE, SENTENCEPIECE_FILE, *COMPANION_FILES, *paddlenlp_tokenizer.NAMES)
    try:
        contents = {name: file_inside(root, name).read_bytes() for name in names if (root / name).is_file()}
    except OSError as error:
        raise ModelFolderError(f"{root}: the tokenizer's files cannot be read: {error}") from error
    contents = paddlenlp_tokenizer.translate(contents, root)
    if FAST_FILE not in contents and SENTENCEPIECE_FILE not in contents:
        found = ", ".join(sorted(path.name for path in root.iterdir())[:12]) or "nothing"
        raise ModelFolderError(f"{root}: no tokenizer: looked for {FAST_FILE} and {SENTENCEPIECE_FILE}, found {found}")
    config = _read_object(root, contents, CONFIG_FILE)
    special, extra = _special_tokens(config, _read_object(root, contents, SPECIAL_MAP_FILE))
    listed = _listed_tokens(root, config, _read_object(root, contents, ADDED_FILE))
    return TokenizerFiles(
        folder=root,
        contents=contents,
        config=config,
        special_tokens={name: token.content for name, token in special.items()},
        added_tokens=_merge(listed, [*special.values(), *extra]),
        chat_template=_chat_template(root, contents, config),
    )


def with_chat_template(files: TokenizerFiles, template: str) -> TokenizerFiles:
    """Return ``files`` with another chat template, in the configuration and in the template's own file if it exists."""
    config = {**files.config, "chat_template": template}
    contents = {**files.contents, CONFIG_FILE: json.dumps(config, indent=2, ensure_ascii=False).encode()}
    if TEMPLATE_FILE in contents:
        contents[TEMPLATE_FILE] = template.encode()
    return replace(files, config=config, contents=contents, chat_template=template)


def with_pad_token(files: TokenizerFiles, token: str) -> dict[str, bytes]:
    """Return the files that name ``pad_token``, with ``token`` as its value."""
    changed = {CONFIG_FILE: {**files.config, "pad_token": token}}
    special = parse_object(files.contents.get(SPECIAL_MAP_FILE, b"{}"), SPECIAL_MAP_FILE)
    if special:
        changed[SPECIAL_MAP_FILE] = {**special, "pad_token": token}
    return {name: json.dumps(value, indent=2, ensure_ascii=False).encode() for name, value in changed.items()}


def _read_object(root: Path, contents: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return a JSON object, empty if the file is absent."""
    return parse_object(contents[name], root / name) if name in contents else {}


def _token(value: Any, *, id: int | None = None, special: bool = False) -> AddedToken | None:
    """Return the token of a string or of a dictionary with ``content``; None for anything else."""
    if isinstance(value, str):
        return AddedToken(value, id, special) if value else None
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str):
        return None
    flags = {name: bool(value.get(name, False)) for name in ("lstrip", "rstrip", "single_word", "normalized")}
    return AddedToken(value["content"], id, special or bool(value.get("special", False)), **flags)


def _special_tokens(
    config: Mapping[str, Any], special_map: Mapping[str, Any]
) -> tuple[dict[str, AddedToken], list[AddedToken]]:
    """Return special tokens by name, and those without a name.

    Current folders have everything in ``tokenizer_config.json``; in folders without ``added_tokens_decoder`` there, the
    separate special tokens map takes precedence.
    """
    config_first = "added_tokens_decoder" in config or not special_map
    first, second = (config, special_map) if config_first else (special_map, config)
    named = {}
    for name in SPECIAL_NAMES:
        token = _token(first[name] if name in first else second.get(name), special=True)
        if token is not None:
            named[name] = token
    return named, [token for name in _EXTRA_NAMES for token in _extra(first.get(name, second.get(name)))]


def _extra(value: Any) -> Iterator[AddedToken]:
    """Yield the tokens in a list or in the values of a dictionary."""
    entries = value.values() if isinstance(value, Mapping) else value
    for entry in entries if isinstance(entries, Iterable) and not isinstance(entries, str) else ():
        token = _token(entry, special=True)
        if token is not None:
            yield token


def _listed_tokens(root: Path, config: Mapping[str, Any], added: Mapping[str, Any]) -> list[AddedToken]:
    """Return the added tokens that are listed with ids, sorted by id."""
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, Mapping):
        raise ModelFolderError(f"{root / CONFIG_FILE}: added_tokens_decoder must be an object, found {decoder!r:.80}")
    listed = [_token(value, id=_id(number, root / CONFIG_FILE)) for number, value in decoder.items()]
    known = {token.content for token in listed if token is not None}
    listed += [AddedToken(text, _id(number, root / ADDED_FILE)) for text, number in added.items() if text not in known]
    return sorted((token for token in listed if token is not None), key=lambda token: token.id)


def _id(value: Any, place: Path) -> int:
    """Return the id of an added token."""
    text = str(value)
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) < _LARGEST_ID):
        raise ModelFolderError(f"{place}: {value!r} is not an id of an added token (allowed: 0 to {_LARGEST_ID - 1})")
    return int(text)


def _merge(listed: list[AddedToken], special: list[AddedToken]) -> tuple[AddedToken, ...]:
    """Return listed tokens, then unlisted special ones; a token named as special is special."""
    names = {token.content for token in special}
    merged = {token.content: replace(token, special=token.special or token.content in names) for token in listed}
    for token in special:
        merged.setdefault(token.content, token)
    return tuple(merged.values())


def _chat_template(root: Path, contents: Mapping[str, bytes], config: Mapping[str, Any]) -> str | None:
    """Return the template in its own file, else the one in the configuration (``default`` if there are several)."""
    if TEMPLATE_FILE in contents:
        try:
            return contents[TEMPLATE_FILE].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ModelFolderError(f"{root / TEMPLATE_FILE}: is not UTF-8 text ({error})") from None
    value = config.get("chat_template")
    if value is None or isinstance(value, str):
        return value
    is_list = isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value)
    if not is_list and not isinstance(value, Mapping):
        raise ModelFolderError(
            f"{root / CONFIG_FILE}: chat_template must be text, or templates by name, found {value!r:.80}"
        )
    entries = value.items() if isinstance(value, Mapping) else ((str(v.get("name")), v.get("template")) for v in value)
    templates = dict(entries)
    if not isinstance(templates.get("default"), str):
        raise ModelFolderError(
            f"{root / CONFIG_FILE}: chat_template names {', '.join(map(repr, templates))}, but no 'default'"
        )
    return templates["default"]
