"""Distinct prompts to generate from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from alignment.data.encode import Encoder
from alignment.data.encoded.mixture import Row
from alignment.data.encoded.tokenized import Collator, Encoded, Sample, TokenizedDataset, to_ids
from alignment.data.ledger import DROPPED_OVERLONG, DUPLICATE_PROMPT, EMPTY_PROMPT, REPEATED_PROMPT, BadRow
from alignment.data.lengths import fit_lengths
from alignment.data.padding import mask_rows, pad_rows, row_lengths
from alignment.data.raw.conversation import Conversation, conversation, text_of
from alignment.data.raw.raw_sample import require_fields


class PromptOnlyCollator(Collator):
    """Pads on the left.

    Gives ``input_ids`` and ``attention_mask`` [B, P] (True: real token), ``lengths`` and ``sample_ids`` [B], and the
    lists ``labels`` and ``prompt_texts``.
    """

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


class PromptOnlyDataset(TokenizedDataset):
    """Samples ``{"input_ids" [P], "sample_id" int, "label" str | None, "prompt_text" str, "raw_input"}``.

    Reads ``input``, with ``answer`` as the label if present; or ``messages`` or ``dialogue``, whose final answer is the
    label. ``sample_id`` is the row's position in the mixed order, ``prompt_text`` the rendered prompt, ``raw_input``
    the turns before rendering (with tools: ``{"messages", "tools"}``). Of equal prompts only the last is kept, as in
    safe-rlhf, so a proportion above 1 adds nothing, unless the options keep duplicates; the others are counted.
    """

    KIND = "prompt-only"
    COLLATOR = PromptOnlyCollator

    def choose_rows(self, rows: Iterable[Row]) -> list[Row]:
        """Keep the last row of each prompt, or all of them, in mixed order."""
        rows, keeps_all = list(rows), self.options.keeps_duplicates
        last = {_key(row): number for number, row in enumerate(rows)}
        keep = set(last.values())
        for number, row in enumerate(rows):
            if number not in keep:
                self.ledger.add(row.dataset, REPEATED_PROMPT if keeps_all else DUPLICATE_PROMPT, row.index)
        return rows if keeps_all else [row for number, row in enumerate(rows) if number in keep]

    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Encode one prompt."""
        asked, label = _question(row)
        if asked.has_blank_question:
            return Encoded(None, (EMPTY_PROMPT,))
        prompt = encoder.encode_prompt(asked)
        if not prompt.ids:
            return Encoded(None, (EMPTY_PROMPT,))
        fitted = fit_lengths(prompt.ids, [], self.options, place=row.place)
        if fitted is None:
            return Encoded(None, (DROPPED_OVERLONG,))
        sample = {
            "input_ids": to_ids(fitted.prompt),
            "sample_id": row.position,
            "label": label,
            "prompt_text": prompt.text,
            "raw_input": _raw_input(row, asked),
        }
        return Encoded(sample, (fitted.reason,) if fitted.reason else ())


def _key(row: Row) -> str:
    """Return a key that is equal for equal prompts; an unusable row equals no other."""
    try:
        return f"row {row.position}" if row.fault is not None else _question(row)[0].key()
    except BadRow:
        return f"row {row.position}"


def _question(row: Row) -> tuple[Conversation, str | None]:
    """Return the prompt, and the reference answer if there is one."""
    sample, tools = row.sample, row.sample.get("tools")
    whole_field = next((name for name in ("messages", "dialogue") if sample.get(name) is not None), None)
    if whole_field is None or sample.get("input") is not None:
        require_fields(sample, ("input",), kind=PromptOnlyDataset.KIND, place=row.place)
        return conversation(sample["input"], tools), sample.get("answer")
    whole = conversation(sample[whole_field], tools)
    if whole.messages[-1]["role"] != "assistant":
        return whole, sample.get("answer")
    return whole.before(len(whole.messages) - 1), text_of(whole.messages[-1]) or None


def read_question(row: Row) -> tuple[Any, str | None]:
    """Return the prompt in the form in which ``row`` gives it, without its tools, and the reference answer if any."""
    asked, label = _question(row)
    raw = _raw_input(row, asked)
    return (list(asked.messages) if asked.tools else raw), label


def _raw_input(row: Row, asked: Conversation) -> Any:
    """Return the prompt in the form in which the row gives it."""
    if asked.tools:
        return {"messages": list(asked.messages), "tools": list(asked.tools)}
    if row.sample.get("input") is not None:
        return row.sample["input"]
    turns = row.sample.get("messages") is None
    return [text_of(message) for message in asked.messages] if turns else list(asked.messages)
