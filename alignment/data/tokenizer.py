"""What the data layer needs of a tokenizer; those of Hugging Face, PaddleNLP and this package satisfy it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable


class TokenizerLike(Protocol):
    """Converts text to token ids and back."""

    eos_token: str
    eos_token_id: int
    bos_token: str | None
    pad_token_id: int | None
    chat_template: str | None

    def __call__(self, text: str, *, add_special_tokens: bool) -> Mapping[str, list[int]]: ...

    def __len__(self) -> int: ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tokenize: bool,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str: ...


@runtime_checkable
class CuttingTokenizer(Protocol):
    """A tokenizer that knows which part of the text each token covers."""

    def encode_cut(
        self, text: str, cuts: Sequence[int], *, add_special_tokens: bool
    ) -> tuple[list[int], list[int | None]]:
        """Return the ids of ``text``, and for each position in ``cuts`` the number of tokens before it.

        None for a position that a token crosses, or might: the text before it alone would have other ids.
        """


@runtime_checkable
class KeyedTokenizer(Protocol):
    """A tokenizer with a key for caching what it encoded."""

    def content_key(self) -> str:
        """Return a text that differs whenever an id, special token or rendered conversation might."""


@runtime_checkable
class WorkingTokenizer(Protocol):
    """A tokenizer with a faster variant for worker processes."""

    def in_worker(self) -> TokenizerLike:
        """Return the variant, which gives the same ids."""


def unknown_id(tokenizer: TokenizerLike) -> int | None:
    """Return the id of the unknown token, or None, also if it is BOS or EOS (as in GPT-2), which would be ambiguous."""
    number = getattr(tokenizer, "unk_token_id", None)
    ends = (tokenizer.eos_token_id, getattr(tokenizer, "bos_token_id", None))
    return None if number in ends else number


def padding_id(tokenizer: TokenizerLike) -> int:
    """Return the padding id, or EOS if there is none (safe, because masks come from lengths)."""
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
