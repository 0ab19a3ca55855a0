"""The two kinds of tokenizer models: ``tokenizer.json`` and sentencepiece's ``tokenizer.model``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from alignment.errors import ModelFolderError
from alignment.models.tokenizer_files import FAST_FILE, SENTENCEPIECE_FILE, AddedToken, TokenizerFiles

_WORD_START = "\u2581"
"""Stands for a space in sentencepiece's pieces."""
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
"""Appended to a model: normalizer_spec (field 3) with add_dummy_prefix (field 3) false; the last value counts."""


class TokenizerModel(Protocol):
    """Text to ids and back; ``vocab`` holds every token with its id, added ones included."""

    vocab: Mapping[str, int]
    default_special_tokens: Mapping[str, str]
    """Special tokens the model itself names, for folders whose configuration does not."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return token ids."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return text; every id must be in the vocabulary."""
        ...


def open_tokenizer_model(files: TokenizerFiles) -> TokenizerModel:
    """Return the model of ``files``: ``tokenizer.json`` where there is one."""
    return FastModel(files) if FAST_FILE in files.contents else SentencePieceModel(files)


class FastModel:
    """``tokenizer.json``, run by the ``tokenizers`` library."""

    default_special_tokens: Mapping[str, str] = {}

    def __init__(self, files: TokenizerFiles) -> None:
        import tokenizers

        try:
            self._model = tokenizers.Tokenizer.from_str(files.contents[FAST_FILE].decode("utf-8"))
        except Exception as error:  # the library raises bare Exception for everything
            raise ModelFolderError(f"{files.folder / FAST_FILE}: cannot be read as a tokenizer ({error})") from error
        self._model.no_truncation()
        self._model.no_padding()
        self._add(files)
        self._set_edges(files)
        self.vocab = self._model.get_vocab(with_added_tokens=True)
        self._joins_words = self._model.decoder is None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return token ids."""
        return self._model.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return text; the library joins by spaces where there is no decoder."""
        return self._model.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def _add(self, files: TokenizerFiles) -> None:
        """Add the tokens that the files beside ``tokenizer.json`` name and it does not."""
        from tokenizers import AddedToken as Added

        present = {token.content: token.special for token in self._model.get_added_tokens_decoder().values()}
        for token in files.added_tokens:
            wanted = present.get(token.content)
            if wanted is not None and (wanted or not token.special or token.id is None):
                continue
            flags = {name: getattr(token, name) for name in ("lstrip", "rstrip", "single_word", "normalized")}
            self._model.add_tokens([Added(token.content, special=token.special, **flags)])
            found = self._model.token_to_id(token.content)
            if token.id is not None and found != token.id:
                raise ModelFolderError(
                    f"{files.folder}: token {token.content!r} has id {token.id} in the configuration, "
                    f"but {found} after {FAST_FILE}"
                )

    def _set_edges(self, files: TokenizerFiles) -> None:
        """Follow ``add_bos_token`` and ``add_eos_token`` where the configuration has them and the model can."""


class SentencePieceModel:
    """``tokenizer.model``, run by sentencepiece, with the rules of Llama's tokenizer for everything around it."""

    def __init__(self, files: TokenizerFiles) -> None:
        raw = files.contents[SENTENCEPIECE_FILE]
        self._place = files.folder / SENTENCEPIECE_FILE
        self._begin, self._middle = self._open(raw), self._open(raw + _NO_DUMMY_PREFIX)
        self.vocab = {self._begin.id_to_piece(number): number for number in range(self._begin.get_piece_size())}
        self.default_special_tokens = self._named_pieces()
        self._add(files)
        self._special = self._special_ids(files)
        self._finder = self._compile_finder()
        self._legacy = bool(files.config.get("legacy", True))
        self._edges = self._edge_ids(files)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return token ids; added tokens are found first, the rest goes through sentencepiece."""
        ids: list[int] = []
        for number, (piece, is_token) in enumerate(self._split(text)):
            if is_token:
                ids.append(self.vocab[piece])
            else:
                # Old folders write a space after every added token ("legacy"); newer ones at the beginning only.
                model = self._begin if number == 0 or self._legacy else self._middle
                ids += model.encode(piece)
        before, after = self._edges if add_special_tokens else ([], [])
        return [*before, *ids, *after]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return text without the space that encoding puts first."""
        kept = [int(i) for i in ids if not (skip_special_tokens and int(i) in self._special)]
        text = b"".join(self._bytes(i) for i in kept).decode("utf-8", errors="replace")
        return text[1:] if self._adds_prefix and text.startswith(" ") else text
