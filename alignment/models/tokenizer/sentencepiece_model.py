"""A sentencepiece ``tokenizer.model`` with the rules of Llama's tokenizer for prefixes and added tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import sentencepiece

from alignment.errors import ModelFolderError
from alignment.models.tokenizer.tokenizer_files import CONFIG_FILE, SENTENCEPIECE_FILE, AddedToken, TokenizerFiles

_SPACE = "\u2581"
"""The space character in pieces."""
_NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
"""Appended to a model file, sets normalizer_spec (field 3) add_dummy_prefix (field 3) to false: the last value wins."""


class SentencePieceModel:
    """Finds added tokens in a text first; sentencepiece encodes the text between them."""

    def __init__(self, files: TokenizerFiles) -> None:
        self._place = files.folder
        raw = files.contents[SENTENCEPIECE_FILE]
        self._model, self._unprefixed = self._open(raw), self._open(raw + _NO_DUMMY_PREFIX)
        self._num_pieces = self._model.get_piece_size()
        self.vocab = {self._model.id_to_piece(number): number for number in range(self._num_pieces)}
        self.default_special_tokens = self._read_special_pieces()
        # legacy=false: only the beginning of a text gets the extra space, not also the text after each added token.
        self._legacy = bool(files.config.get("legacy", True))
        self._has_prefix = self._model.encode("a", out_type=str) != self._unprefixed.encode("a", out_type=str)
        self._added = self._add(files.added_tokens)
        self._special = {self.vocab[token.content] for token in self._added if token.special}
        self._added_texts = {self.vocab[token.content]: token.content for token in self._added}
        self._finder = _compile_finder(self._added)
        self._before, self._after = self._read_edges(files)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return token ids."""
        ids: list[int] = []
        for number, (piece, is_token) in enumerate(self._split(text)):
            if is_token:
                ids.append(self.vocab[piece])
            else:
                model = self._model if number == 0 or self._legacy else self._unprefixed
                ids += model.encode(piece)
        return [*self._before, *ids, *self._after] if add_special_tokens else ids

    def encode_cut(
        self, text: str, cuts: Sequence[int], *, add_special_tokens: bool
    ) -> tuple[list[int], list[int | None]]:
        """Return token ids, and None for each cut: callers then encode each part on its own."""
        return self.encode(text, add_special_tokens=add_special_tokens), [None for _ in cuts]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text without the space that encoding adds at its beginning; unknown ids are dropped."""
        kept = [int(i) for i in ids if not (skip_special_tokens and int(i) in self._special)]
        text = b"".join(map(self._read_bytes, kept)).decode("utf-8", errors="replace")
        return text[1:] if self._has_prefix and text.startswith(" ") else text

    def in_worker(self) -> SentencePieceModel:
        """Return this model, which is as fast in a worker process."""
        return self

    def _open(self, raw: bytes) -> sentencepiece.SentencePieceProcessor:
        try:
            return sentencepiece.SentencePieceProcessor(model_proto=raw)
        except RuntimeError as error:
            raise ModelFolderError(
                f"{self._place / SENTENCEPIECE_FILE}: cannot be read as a sentencepiece model ({error})"
            ) from error

    def _read_special_pieces(self) -> dict[str, str]:
        names = ("bos_token", "eos_token", "unk_token", "pad_token")
        ids = (self._model.bos_id(), self._model.eos_id(), self._model.unk_id(), self._model.pad_id())
        return {name: self._model.id_to_piece(i) for name, i in zip(names, ids, strict=True) if i >= 0}

    def _add(self, tokens: Sequence[AddedToken]) -> list[AddedToken]:
        """Add ``tokens`` to the vocabulary; return them and the model's own special pieces."""
        by_id = {i: token for token, i in self.vocab.items()}
        for token in tokens:
            number = self.vocab.get(token.content, max(by_id) + 1) if token.id is None else token.id
            if self.vocab.setdefault(token.content, number) != number:
                self._refuse(token, f"it is number {self.vocab[token.content]}")
            if by_id.setdefault(number, token.content) != token.content:
                self._refuse(token, f"that is {by_id[number]!r}")
        named = {token.content for token in tokens}
        control = [by_id[i] for i in range(self._num_pieces) if self._model.is_control(i) or self._model.is_unknown(i)]
        return [*tokens, *(AddedToken(content, special=True) for content in control if content not in named)]

    def _split(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yield (piece, whether it is an added token) in order; no piece is empty."""
        end = 0
        for match in self._finder.finditer(text):
            if match.start() > end:
                yield text[end : match.start()], False
            yield match.group(match.lastindex), True
            end = match.end()
        if end < len(text):
            yield text[end:], False

    def _read_bytes(self, token_id: int) -> bytes:
        if not 0 <= token_id < self._num_pieces:
            return self._added_texts.get(token_id, "").encode()
        piece = self._model.id_to_piece(token_id)
        return bytes([int(piece[3:5], 16)]) if self._model.is_byte(token_id) else piece.replace(_SPACE, " ").encode()

    def _refuse(self, token: AddedToken, why: str) -> None:
        raise ModelFolderError(
            f"{self._place / CONFIG_FILE}: token {token.content!r} has id {token.id}; in {SENTENCEPIECE_FILE} {why}"
        )

    def _read_edges(self, files: TokenizerFiles) -> tuple[list[int], list[int]]:
        """Return the ids before and after a text; as in Llama's tokenizer, BOS is added by default and EOS is not."""
        tokens, edges = {**self.default_special_tokens, **files.special_tokens}, []
        for name, default in (("bos_token", True), ("eos_token", False)):
            wanted = files.config.get(f"add_{name}", default and name in tokens)
            if wanted and name not in tokens:
                raise ModelFolderError(f"{files.folder / CONFIG_FILE}: add_{name} is true, but there is no {name}")
            edges.append([self.vocab[tokens[name]]] if wanted else [])
        return edges[0], edges[1]


def _compile_finder(tokens: Sequence[AddedToken]) -> re.Pattern[str]:
    """Return a pattern that finds the longest added token at each position, with the white space it swallows."""
    by_length = sorted(tokens, key=lambda token: len(token.content), reverse=True)
    space = {True: r"\s*", False: ""}
    parts = [rf"{space[token.lstrip]}({re.escape(token.content)}){space[token.rstrip]}" for token in by_length]
    return re.compile("|".join(parts) if parts else r"(?!)")
