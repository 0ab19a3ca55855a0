"""A ``tokenizer.json``, run by the ``tokenizers`` library; what both kinds of tokenizer models promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import tokenizers

from alignment.errors import ModelFolderError
from alignment.models.tokenizer.tokenizer_files import CONFIG_FILE, FAST_FILE, AddedToken, TokenizerFiles


class TokenizerModel(Protocol):
    """Text to ids and back."""

    vocab: Mapping[str, int]
    """Every token with its id, added ones included."""
    default_special_tokens: Mapping[str, str]
    """Special tokens the model itself names, for folders whose configuration does not."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return token ids."""
        ...

    def encode_cut(
        self, text: str, cuts: Sequence[int], *, add_special_tokens: bool
    ) -> tuple[list[int], list[int | None]]:
        """Return token ids, and for each place in ``text`` the number of tokens before it (None: not known)."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return text."""
        ...


class FastModel:
    """The model of ``tokenizer.json``, with the tokens that only the files beside it name.

    What stands around a text (BOS, EOS) is what ``tokenizer.json`` says; ``add_bos_token`` and ``add_eos_token`` of the
    configuration are for sentencepiece models, as in transformers.
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
        self._added = frozenset(self._model.get_added_tokens_decoder())
        self.vocab = self._model.get_vocab(with_added_tokens=True)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return token ids."""
        return self._model.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_cut(
        self, text: str, cuts: Sequence[int], *, add_special_tokens: bool
    ) -> tuple[list[int], list[int | None]]:
        """Return token ids, and for each place in ``text`` the number of tokens before it (None: not known)."""
        encoding = self._model.encode(text, add_special_tokens=add_special_tokens)
        ids = encoding.ids
        return ids, [self._count_before(encoding, ids, text, cut) for cut in cuts]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return text; the library joins by spaces where there is no decoder, and leaves unknown ids out."""
        return self._model.decode([int(i) for i in ids], skip_special_tokens=skip_special_tokens)

    def _count_before(self, encoding: tokenizers.Encoding, ids: Sequence[int], text: str, cut: int) -> int | None:
        """Return the number of tokens before ``cut``; None where one lies across it, or might.

        Added tokens split a text before anything else does. Elsewhere blanks before the place prove nothing: some
        models leave them out of a token's characters, and some split a run of them by what follows.
        """
        token = encoding.char_to_token(cut)
        if token is None or encoding.token_to_chars(token)[0] != cut:
            return None
        last, clear = text[cut - 1], ids[token] in self._added
        return token if clear or not last.isspace() or (last != " " and not text[cut - 2 : cut - 1].isspace()) else None

    def _add(self, tokens: Sequence[AddedToken]) -> None:
        """Add what ``tokenizer.json`` does not have; each id must be the one the configuration says."""
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
