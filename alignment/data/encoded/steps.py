"""Answers in steps, each with a label, for process reward models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignment.data.encode import Answer, Encoder
from alignment.data.encoded.mixture import Row
from alignment.data.encoded.pairs import EncodedAnswers, encode_answers
from alignment.data.encoded.tokenized import Collator, Encoded, Sample, TokenizedDataset, to_ids
from alignment.data.ledger import DROPPED_OVERLONG
from alignment.data.padding import mask_rows, pad_rows, row_lengths
from alignment.data.raw.raw_sample import require_fields
from alignment.data.tokenizer import TokenizerLike
from alignment.errors import ArgumentError, DataError

FIRST_STEP = "Step 1:"
"""Where the answer begins in rows that hold question and answer in one text (Math-Shepherd, OpenRLHF)."""


def step_token_id(tokenizer: TokenizerLike, token: str) -> int:
    """Return the id of the token that ends every step; ArgumentError if the text is not exactly one known token."""
    ids = [int(i) for i in tokenizer(token, add_special_tokens=False)["input_ids"]]
    if len(ids) != 1 or tokenizer.decode(ids, skip_special_tokens=False).strip() != token.strip():
        raise ArgumentError(
            f"placeholder_token={token!r} is {len(ids)} token(s) of the tokenizer, {ids[:8]}: a step ends with exactly "
            "one token that it knows; name another, or add it to the tokenizer"
        )
    return ids[0]


class StepCollator(Collator):
    """Pads on the right.

    Gives ``input_ids`` and ``attention_mask`` [B, S] (True: real token), ``lengths`` and ``prompt_lengths`` [B], and
    ``step_labels`` [B, S]: NaN where no step ends.
    """

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        rows = [sample["input_ids"] for sample in samples]
        padded = pad_rows(rows, value=self._pad_token_id)
        labels = np.full(padded.shape, np.nan, np.float32)
        for row, sample in enumerate(samples):
            labels[row, sample["step_positions"]] = sample["step_labels"]
        return {
            "input_ids": padded,
            "attention_mask": mask_rows(rows),
            "lengths": row_lengths(rows),
            "prompt_lengths": to_ids([sample["prompt_length"] for sample in samples]),
            "step_labels": labels,
        }


class ProcessDataset(TokenizedDataset):
    """Samples ``{"input_ids" [S], "prompt_length" int, "step_positions" [m], "step_labels" [m]}``, labels from 0 to 1.

    Reads ``input, steps, step_labels``: every step is followed by the step token of ``options``. An ``input`` that
    holds the step token itself, with the same text as ``answer`` in which labels replace it, is read as OpenRLHF does.
    """

    KIND = "process reward"
    COLLATOR = StepCollator
    COMPARES_ANSWERS = True

    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Encode the steps of one answer with their labels."""
        token, end = self.options.step_token, step_token_id(self.tokenizer, self.options.step_token)
        sample = _split_text(row, token, self.options.reward_tokens)
        require_fields(sample, ("input", "steps", "step_labels"), kind=self.KIND, place=row.place)
        steps, labels = sample["steps"], [_label(v, self.options.reward_tokens, row) for v in sample["step_labels"]]
        if len(steps) != len(labels):
            raise DataError(f"{row.place}: {len(steps)} step(s) and {len(labels)} label(s); each step needs one")
        if not steps:
            raise DataError(f"{row.place}: no step to learn from")
        text = "\n".join(f"{step.strip()} {token.strip()}" for step in steps)

        def check_ends(answers: Sequence[Answer]) -> None:
            _check_ends(answers[0].ids.count(end), len(labels), token, row)

        encoded = encode_answers(row._replace(sample=sample), (text,), encoder, self.options, fault_of=check_ends)
        if not isinstance(encoded, EncodedAnswers):
            return Encoded(None, encoded)
        (ids,) = encoded.sequences()
        start = len(encoded.fitted.prompt)
        ends = start + np.flatnonzero(ids[start:] == end)
        if not len(ends):
            return Encoded(None, (DROPPED_OVERLONG,))
        made: dict[str, Any] = {"input_ids": ids, "prompt_length": start, "step_positions": ends}
        return Encoded({**made, "step_labels": labels[: len(ends)]}, encoded.reasons)


def _split_text(row: Row, token: str, reward_tokens: Sequence[str]) -> Any:
    """Return the sample with ``steps`` and ``step_labels``, read from two texts where they differ at the step token."""
    given, answer = row.sample.get("input"), row.sample.get("answer")
    if "steps" in row.sample or not (token and isinstance(given, str) and isinstance(answer, str) and token in given):
        return row.sample
    question, found, _ = given.partition(FIRST_STEP)
    if not found:
        return row.sample
    labels, rest = [], answer
    for piece in given.split(token)[:-1]:
        rest = rest[len(piece) :] if rest.startswith(piece) else ""
        label = next((name for name in reward_tokens if rest.startswith(name)), None)
        if label is None:
            raise DataError(
                f"{row.place}: after step {len(labels) + 1} the label is {rest[:20]!r}, or its text is not that of the "
                f"input (allowed: {', '.join(map(repr, reward_tokens))} in place of each {token!r})"
            )
        labels.append(label)
        rest = rest[len(label) :]
    steps = given[len(question) :].split(token)[:-1]
    return {"input": question.strip(), "steps": [step.strip() for step in steps], "step_labels": labels}


def _check_ends(found: int, labels: int, token: str, row: Row) -> None:
    """Refuse a whole answer whose labels would become those of other steps."""
    if found != labels:
        raise DataError(
            f"{row.place}: {labels} label(s), and {found} of the answer's tokens are the step token "
            f"{token!r}: a step contains it, or the tokenizer joins it with other text"
        )


def _label(value: Any, reward_tokens: Sequence[str], row: Row) -> float:
    """Return a label as a number from 0 (bad) to 1 (good)."""
    if isinstance(value, str) and value.strip() in reward_tokens:
        return float(value.strip() == reward_tokens[0])
    if isinstance(value, (bool, int, float)) and 0 <= value <= 1:
        return float(value)
    allowed = ", ".join(map(repr, reward_tokens))
    raise DataError(f"{row.place}: step label {value!r:.40} (allowed: true, false, {allowed}, a number from 0 to 1)")
