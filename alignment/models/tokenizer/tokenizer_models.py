"""The interface of tokenizer models, and the one for ``tokenizer.json``, run by the ``tokenizers`` library."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Protocol

import tokenizers

from alignment.errors import ModelFolderError
from alignment.models.tokenizer.token_bytes import TokenBytes
from alignment.models.tokenizer.tokenizer_files import CONFIG_FILE, FAST_FILE, AddedToken, TokenizerFiles


class TokenizerModel(Protocol):
    """Converts text to ids and back."""

    vocab: Mapping[str, int]
    """The id of every token, added ones included."""
    default_special_tokens: Mapping[str, str]
    """The model's own special tokens, used if the folder's configuration does not name any."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return token ids."""
        ...

    def encode_cut(
        self, text: str, cuts: Sequence[int], *, add_special_tokens: bool
    ) -> tuple[list[int], list[int | None]]:
        """Return token ids, and the number of tokens before each cut in ``text`` (None: unknown)."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return text."""
        ...

    def in_worker(self) -> TokenizerModel:
        """Return the fastest equivalent model for a process that only encodes."""
        ...


class FastModel:
    """The model in ``tokenizer.json``, plus tokens that only the other files name.

    ``tokenizer.json`` alone decides whether BOS and EOS are added; as in transformers, ``add_bos_token`` and
    ``add_eos_token`` in the configuration only affect sentencepiece models.
    """

    default_special_tokens: Mapping[str, str] = {}

    def __init__(self, files: TokenizerFiles) -> None:
        self._place = files.folder
        try:
            self._model = tokenizers.Tokenizer.from_str(files.contents[FAST_FILE].decode("utf-8"))
        except Exception as error:  # the library raises bare Exception for everything
            raise ModelFolderError(f"{files.folder / FAST_FILE}: cannot be read as a tokenizer ({error})") from error
        self._model.no_truncation()
        self._model.no_padding()
        self._add(files.added_tokens)
        self._added = {number: token.content for number, token in self._model.get_added_tokens_decoder().items()}
        self.vocab = self._model.get_vocab(with_added_tokens=True)
        self._bytes: TokenBytes | None = None

    def in_worker(self) -> FastModel:
        """Return this model for a process that only encodes, using a faster call that would start threads elsewhere."""
        normalizer = self._model.normalizer
        keeps = (
            "all" if normalizer is None else "ascii" if type(normalizer) is tokenizers.normalizers.NFC else "nothing"
        )
        model, token_bytes = copy.copy(self), TokenBytes(self.vocab, self._added, keeps=keeps)
        if token_bytes.count_before(self._encode_bare("A b"), "A b", ()) is not None:
            model._bytes = token_bytes
        return model

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return token ids."""
        return self._model.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_cut(
        self, text: str, cuts: Sequence[int], *, add_special_tokens: bool
    ) -> tuple[list[int], list[int | None]]:
        """Return token ids, and the number of tokens before each cut in ``text`` (None: unknown)."""
        if self._bytes and not (add_special_tokens and self._model.num_special_tokens_to_add(False)):
            ids = self._encode_bare(text)
            counts = self._bytes.count_before(ids, text, cuts)
            if counts is not None:
                return ids, self._proved(counts, ids, text, cuts)
        encoding = self._model.encode(text, add_special_tokens=add_special_tokens)
        found = [encoding.char_to_token(cut) for cut in cuts]
        begins = [None if n is None else encoding.token_to_chars(n)[0] for n in found]
        counts = [n if begin == cut else None for n, begin, cut in zip(found, begins, cuts, strict=True)]
        return encoding.ids, self._proved(counts, encoding.ids, text, cuts)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text; without a decoder the library joins tokens by spaces. Unknown ids are dropped."""
        return self._model.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def _encode_bare(self, text: str) -> list[int]:
        """Return token ids without special tokens around them; faster, as the library computes no offsets."""
        return self._model.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def _proved(
        self, counts: Sequence[int | None], ids: Sequence[int], text: str, cuts: Sequence[int]
    ) -> list[int | None]:
        """Return the ``counts`` that also hold for the text before the cut alone, None for others.

        A cut before an added token is safe, as these split a text first. Elsewhere blanks before the cut leave it open:
        some models drop them from a token's characters, and some split a run of blanks by what follows.
        """
        proved: list[int | None] = []
        for count, cut in zip(counts, cuts, strict=True):
            last = text[cut - 1]
            is_clear = not last.isspace() or (last != " " and not text[cut - 2 : cut - 1].isspace())
            proved.append(count if is_clear or (count is not None and ids[count] in self._added) else None)
        return proved

    def _add(self, tokens: Sequence[AddedToken]) -> None:
        """Add tokens that ``tokenizer.json`` lacks; ModelFolderError if an id differs from the configuration's."""
        special = {token.content: token.special for token in self._model.get_added_tokens_decoder().values()}
        for token in tokens:
            if token.content not in special or (token.special and not special[token.content]):
                flags = {name: getattr(token, name) for name in ("lstrip", "rstrip", "single_word", "normalized")}
                self._model.add_tokens([tokenizers.AddedToken(token.content, special=token.special, **flags)])
            found = self._model.token_to_id(token.content)
            if token.id is not None and found != token.id:
                raise ModelFolderError(
                    f"{self._place / CONFIG_FILE}: token {token.content!r} has id {token.id}; {FAST_FILE} says {found}"
                )
