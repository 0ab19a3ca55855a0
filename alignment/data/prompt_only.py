"""Prompts to generate from, each once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from alignment.data.encode import Encoder
from alignment.data.ledger import DROPPED_OVERLONG, DUPLICATE_PROMPT, EMPTY_PROMPT
from alignment.data.lengths import fit_lengths
from alignment.data.mixture import Row
from alignment.data.padding import mask_rows, pad_rows, row_lengths
from alignment.data.raw_sample import conversation, require_fields
from alignment.data.tokenized import Encoded, Sample, TokenizedDataset, to_ids
from alignment.data.tokenizer import Tokenizer, padding_id


class PromptOnlyDataset(TokenizedDataset):
    """Samples ``{"input_ids" [P], "sample_id" int, "label" str | None, "prompt_text" str, "raw_input"}``.

    Reads ``input``, and ``answer`` as the label when there is one. ``sample_id`` is the row's place in the mixed order,
    ``prompt_text`` what the model reads, ``raw_input`` the turns before the template. Equal prompts are kept once: the
    last occurrence, as in safe-rlhf, so a proportion above 1 adds nothing; the others are counted.
    """

    KIND = "prompt-only"

    def choose_rows(self, rows: Iterable[Row]) -> list[Row]:
        """Keep the last row of each prompt, in mixed order."""
        rows = list(rows)
        last: dict[tuple[str, ...], int] = {}
        for number, row in enumerate(rows):
            require_fields(row.sample, ("input",), kind=self.KIND, place=row.place)
            last[tuple(conversation(row.sample["input"]))] = number
        keep = set(last.values())
        for number, row in enumerate(rows):
            if number not in keep:
                self.ledger.add(row.dataset, DUPLICATE_PROMPT, row.index)
        return [row for number, row in enumerate(rows) if number in keep]

    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Encode one prompt."""
        turns = conversation(row.sample["input"])
        if not all(turn.strip() for turn in turns[0::2]):
            return Encoded(None, (EMPTY_PROMPT,))
        prompt = encoder.encode_prompt(turns)
        if not prompt.ids:
            return Encoded(None, (EMPTY_PROMPT,))
        fitted = fit_lengths(prompt.ids, [], self.options, place=row.place)
        if fitted is None:
            return Encoded(None, (DROPPED_OVERLONG,))
        sample = {
            "input_ids": to_ids(fitted.prompt),
            "sample_id": row.position,
            "label": row.sample.get("answer"),
            "prompt_text": prompt.text,
            "raw_input": row.sample["input"],
        }
        return Encoded(sample, (fitted.reason,) if fitted.reason else ())

    def make_collator(self, tokenizer: Tokenizer) -> PromptOnlyCollator:
        """Return the left-padding collator."""
        return PromptOnlyCollator(padding_id(tokenizer))


class PromptOnlyCollator:
    """Pads on the left.

    Gives ``input_ids`` and ``attention_mask`` [B, P] (True: real token), ``lengths`` and ``sample_ids`` [B], and the
    lists ``labels`` and ``prompt_texts``.
    """

    def __init__(self, pad_token_id: int) -> None:
        self._pad_token_id = pad_token_id

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        rows = [sample["input_ids"] for sample in samples]
        return {
            "input_ids": pad_rows(rows, value=self._pad_token_id, left=True),
            "attention_mask": mask_rows(rows, left=True),
            "lengths": row_lengths(rows),
            "sample_ids": to_ids([sample["sample_id"] for sample in samples]),
            "labels": [sample["label"] for sample in samples],
            "prompt_texts": [sample["prompt_text"] for sample in samples],
        }
