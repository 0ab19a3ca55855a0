"""Which token ids end a sequence: the one rule for rollout, evaluation, chat, export and saved models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alignment.architecture.decoder_config import DecoderConfig
from alignment.errors import ArgumentError
from alignment.models.folders.hub import SCORE_STATE
from alignment.models.tokenizer.tokenizer import Tokenizer


def sequence_ends(config: DecoderConfig, tokenizer: Tokenizer | None = None, *turn_ends: int) -> tuple[int, ...]:
    """Return every token id that ends a sequence, without duplicates.

    They are ``turn_ends`` (what the template in use writes after an answer), the tokenizer's EOS, and those of
    config.json and generation_config.json; ids beyond the model's vocabulary are dropped.
    """
    own = () if tokenizer is None else (tokenizer.eos_token_id,)
    ids = dict.fromkeys((*turn_ends, *own, *config.eos_token_ids))
    return tuple(number for number in ids if 0 <= number < config.vocab_size)


def with_stop_tokens(ends: Iterable[int], wanted: Sequence[int], *, known: int, owner: str) -> tuple[int, ...]:
    """Return ``ends`` and the token ids that stop_token_ids adds, of which a model knows ``known``.

    ArgumentError for a token that the model of ``owner`` does not have.
    """
    if unknown := [token for token in wanted if token >= known]:
        raise ArgumentError(f"stop_token_ids={unknown[0]} is not a token of the {owner} (allowed: 0 to {known - 1})")
    return tuple(dict.fromkeys((*ends, *wanted)))


def padding_id(config: DecoderConfig, tokenizer: Tokenizer | None) -> int | None:
    """Return the id of a token to pad a score model's rows with, one that ends no sequence; None if there is none.

    Hugging Face reads a row's score just before the first padding token; with EOS as padding that would be one token
    too early. Without a padding id it refuses padded batches and reads single rows correctly.
    """
    ends = sequence_ends(config, tokenizer)
    if tokenizer is None:
        return config.pad_token_id if config.pad_token_id not in ends else None
    own = (tokenizer.pad_token_id, config.pad_token_id, tokenizer.unk_token_id, *tokenizer.special_ids)
    known = (number for number in own if number is not None and tokenizer.id_to_token(number) is not None)
    return next((number for number in known if number not in ends and 0 <= number < config.vocab_size), None)


def padding_warning(place: str, config: DecoderConfig, tokenizer: Tokenizer) -> str | None:
    """Return a warning if transformers would read the scores of the reward model in ``place`` at another token.

    Reward models trained here are read at the end, whatever their padding.
    """
    is_ours = SCORE_STATE in config.raw
    if is_ours or config.pad_token_id is None or config.pad_token_id not in sequence_ends(config, tokenizer):
        return None
    return (
        f"{place}: its pad_token_id {config.pad_token_id} also ends sequences; transformers reads the score one token "
        "before that, and here it is read at the end. If the reward model was trained elsewhere, give "
        "score_before_padding=true"
    )
