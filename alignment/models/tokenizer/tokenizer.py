"""Convert text to token ids and back, for folders with a ``tokenizer.json`` or a sentencepiece ``tokenizer.model``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from tokenizers import __version__

from alignment.errors import DataError, ModelFolderError
from alignment.models.tokenizer.chat_template import ChatTemplate
from alignment.models.tokenizer.tokenizer_files import (
    CONFIG_FILE,
    FAST_FILE,
    TokenizerFiles,
    read_tokenizer_files,
    with_chat_template,
    with_pad_token,
)
from alignment.models.tokenizer.tokenizer_models import FastModel, TokenizerModel


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Return the tokenizer in ``folder``; ModelFolderError names the folder and what was looked for."""
    return open_tokenizer(read_tokenizer_files(folder))


def open_tokenizer(files: TokenizerFiles) -> Tokenizer:
    """Return the tokenizer for ``files``."""
    if FAST_FILE in files.contents:
        return Tokenizer(FastModel(files), files)
    from alignment.models.tokenizer.sentencepiece_model import SentencePieceModel

    return Tokenizer(SentencePieceModel(files), files)


class Tokenizer:
    """The tokenizer of a model folder; immutable."""

    def __init__(self, model: TokenizerModel, files: TokenizerFiles) -> None:
        self._model = model
        self._files = files
        self._special = {**model.default_special_tokens, **files.special_tokens}
        self._template = files.chat_template and ChatTemplate(
            files.chat_template, place=str(files.folder), special_tokens=self._special
        )
        self._tokens = {number: token for token, number in model.vocab.items()}

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Return ``{"input_ids": ids}``; special tokens written in ``text`` become their ids."""
        return {"input_ids": self.encode(text, add_special_tokens)}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle only the files; worker processes open them again."""
        return open_tokenizer, (self._files,)

    def in_worker(self) -> Tokenizer:
        """Return an equivalent tokenizer that is faster in a process that only encodes."""
        return Tokenizer(self._model.in_worker(), self._files)

    def __len__(self) -> int:
        """Return the highest id plus one, added tokens included."""
        return max(self._tokens, default=-1) + 1

    def __repr__(self) -> str:
        return f"Tokenizer({str(self._files.folder)!r}, {len(self)} tokens)"

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of ``text``, with BOS and EOS added as the folder configures."""
        return self._model.encode(text, add_special_tokens=add_special_tokens)

    def encode_cut(
        self, text: str, cuts: Sequence[int], add_special_tokens: bool = True
    ) -> tuple[list[int], list[int | None]]:
        """Return the ids of ``text`` and the number of tokens before each of ``cuts`` (character positions).

        The number is None if a token spans the cut, or if encoding the text before the cut alone might give other ids.
        """
        return self._model.encode_cut(text, cuts, add_special_tokens=add_special_tokens)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ``ids``; ids without a token (padding rows of an embedding) are dropped."""
        return self._model.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def id_to_token(self, token_id: int) -> str | None:
        """Return the token with ``token_id``, None if there is none."""
        return self._tokens.get(int(token_id))

    @property
    def vocab(self) -> dict[str, int]:
        """The id of every token, added ones included."""
        return dict(self._model.vocab)

    @property
    def bos_token(self) -> str | None:
        """The token at the beginning of a text, if any."""
        return self._special.get("bos_token")

    @property
    def bos_token_id(self) -> int | None:
        """The id of ``bos_token``."""
        return self._id_of("bos_token")

    @property
    def eos_token(self) -> str:
        """The token at the end of an answer; ModelFolderError if the folder names none."""
        if "eos_token" not in self._special:
            raise ModelFolderError(
                f"{self._files.folder}: the tokenizer has no end-of-text token, and answers must end; "
                f'name one of its tokens as "eos_token" in {CONFIG_FILE}'
            )
        return self._special["eos_token"]

    @property
    def eos_token_id(self) -> int:
        """The id of ``eos_token``."""
        return self._model.vocab[self.eos_token]

    @property
    def pad_token(self) -> str | None:
        """The token that pads rows of a batch, if any."""
        return self._special.get("pad_token")

    @property
    def pad_token_id(self) -> int | None:
        """The id of ``pad_token``."""
        return self._id_of("pad_token")

    @property
    def unk_token(self) -> str | None:
        """The token for text outside the vocabulary, if any."""
        return self._special.get("unk_token")

    @property
    def unk_token_id(self) -> int | None:
        """The id of ``unk_token``."""
        return self._id_of("unk_token")

    @property
    def chat_template(self) -> str | None:
        """The Jinja source, None if the folder has none."""
        return self._files.chat_template

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tokenize: bool = False,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str | list[int]:
        """Return the text of ``messages`` (``role`` and ``content``), or its ids; DataError if the template refuses."""
        if not self._template:
            raise DataError(f"{self._files.folder}: the tokenizer has no chat template")
        text = self._template.render(messages, add_generation_prompt=add_generation_prompt, tools=tools)
        return self.encode(text, add_special_tokens=False) if tokenize else text

    @property
    def special_ids(self) -> list[int]:
        """The ids of all special tokens, named ones (BOS and so on) first."""
        tokens = [*self._special.values(), *(token.content for token in self._files.added_tokens if token.special)]
        return list(dict.fromkeys(self._model.vocab[token] for token in tokens if token in self._model.vocab))

    def with_chat_template(self, template: str) -> Tokenizer:
        """Return a tokenizer with another chat template, which ``save`` writes too."""
        return open_tokenizer(with_chat_template(self._files, template))

    def save(self, folder: str | Path, *, padding: int | None = None) -> None:
        """Write the tokenizer's files to ``folder``, byte for byte as they were read.

        If ``padding`` is not the id of ``pad_token``, its token becomes the ``pad_token`` in the written files.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        contents = dict(self._files.contents)
        if padding is not None and padding != self.pad_token_id:
            contents |= with_pad_token(self._files, self._tokens[padding])
        for name, content in contents.items():
            (target / name).write_bytes(content)

    def fingerprint(self) -> str:
        """Return a hash of the meaning of token ids: every token's id, BOS and EOS.

        Folders whose files differ only in form have the same hash. The padding token is left out: it carries no
        meaning here, and folders of one model family name different ones.
        """
        meaning = [sorted(self._model.vocab.items()), self.bos_token, self._special.get("eos_token")]
        return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()

    def content_key(self) -> str:
        """Return a hash that changes whenever an id or a rendered conversation might.

        It covers the files, the version of the library, this code, and today's date if the template writes it.
        """
        template = self._files.chat_template or ""
        parts = [__version__, date.today().isoformat() if "strftime_now" in template else "", template]
        sources = sorted(Path(__file__).parent.glob("*.py"))
        contents = [*sorted(self._files.contents.items()), *((path.name, path.read_bytes()) for path in sources)]
        digest = hashlib.sha256(json.dumps([*parts, [name for name, _ in contents]]).encode())
        for _, content in contents:
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()

    def _id_of(self, name: str) -> int | None:
        token = self._special.get(name)
        return None if token is None else self._model.vocab[token]
