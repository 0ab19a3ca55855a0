"""Prompts with an answer, or dialogues, for supervised fine-tuning and the PTX loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alignment.data.encode import Dialogue, Encoder
from alignment.data.encoded.mixture import Row
from alignment.data.encoded.tokenized import Collator, Encoded, Sample, TokenizedDataset, to_ids
from alignment.data.ledger import (
    BOUNDARY_RETOKENIZED,
    DROPPED_OVERLONG,
    EMPTY_ANSWER,
    EMPTY_PROMPT,
    NO_TARGET,
    SHORT_ANSWER,
    UNDESIRABLE,
    BadRow,
)
from alignment.data.lengths import fit_lengths
from alignment.data.padding import mask_rows, pad_rows, row_lengths
from alignment.data.raw.conversation import Conversation, conversation
from alignment.data.raw.raw_sample import require_fields
from alignment.errors import DataError

IGNORE_INDEX = -100
"""Label of tokens that are not trained on."""


class SupervisedCollator(Collator):
    """Pads on the right: ``input_ids``, ``labels``, ``attention_mask`` [B, S] (True: real token), ``lengths`` [B]."""

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        rows = [sample["input_ids"] for sample in samples]
        return {
            "input_ids": pad_rows(rows, value=self._pad_token_id),
            "labels": pad_rows([sample["labels"] for sample in samples], value=IGNORE_INDEX),
            "attention_mask": mask_rows(rows),
            "lengths": row_lengths(rows),
        }


class SupervisedDataset(TokenizedDataset):
    """Samples ``{"input_ids" [S], "labels" [S]}``: labels equal the ids on answer tokens, -100 elsewhere (not shifted).

    Reads ``input`` and ``answer`` (only the answer is a target; ``input`` may be several turns), or ``dialogue``
    (every assistant turn is a target), or ``messages`` (every assistant turn is one unless its ``train`` is False).
    Of a pair only the better answer is trained on; a row with ``desirable`` False is dropped. ``options.targets``
    changes what is a target.
    """

    KIND = "supervised"
    COLLATOR = SupervisedCollator

    def encode_row(self, row: Row, encoder: Encoder) -> Encoded:
        """Encode one row, which must have exactly one of ``input``, ``dialogue`` and ``messages``."""
        if row.sample.get("desirable") is False:
            return Encoded(None, (UNDESIRABLE,))
        if self.options.targets == "text":
            return self._encode_text(row, encoder)
        whole = _conversation(row)
        if self.options.targets == "last":
            whole = whole.trained_on_last()
        if not whole.targets:
            return Encoded(None, (NO_TARGET,))
        if whole.has_blank_question:
            return Encoded(None, (EMPTY_PROMPT,))
        if whole.has_blank_target:
            return Encoded(None, (EMPTY_ANSWER,))
        dialogue = encoder.encode_dialogue(whole)
        reason = self._fault(dialogue, encoder)
        return Encoded(None, (reason,)) if reason else self._fit(dialogue, row.place)

    def _encode_text(self, row: Row, encoder: Encoder) -> Encoded:
        """Encode ``input``, followed by the ``answer`` if there is one, as one text."""
        given, answer = row.sample.get("input"), row.sample.get("answer") or ""
        if not isinstance(given, str) or not isinstance(answer, str):
            raise DataError(
                f"{row.place}: pretrain_mode trains on plain text, and this row holds a conversation; name the column "
                "of the text with input_key, or train on all tokens of conversations with loss_on=all"
            )
        if not (given + answer).strip():
            return Encoded(None, (EMPTY_PROMPT,))
        ids = encoder.encode_text(given + answer)
        return self._fit(Dialogue([], ids, [True] * len(ids), False), row.place)

    def _fault(self, dialogue: Dialogue, encoder: Encoder) -> str | None:
        if not dialogue.prompt_ids:
            return EMPTY_PROMPT
        num_content = encoder.count_content(dialogue.body_ids)
        if num_content == 0:
            return EMPTY_ANSWER
        return SHORT_ANSWER if num_content < self.options.min_answer_tokens else None

    def _fit(self, dialogue: Dialogue, place: object) -> Encoded:
        fitted = fit_lengths(dialogue.prompt_ids, [dialogue.body_ids], self.options, place=place)
        if fitted is None:
            return Encoded(None, (DROPPED_OVERLONG,))
        num_prompt, body = len(fitted.prompt), fitted.answers[0]
        targets = dialogue.body_targets[: len(body)]
        if True not in targets:
            return Encoded(None, (DROPPED_OVERLONG,))
        ids = to_ids(fitted.prompt + body)
        labels = ids.copy()
        reasons = [BOUNDARY_RETOKENIZED] * dialogue.retokenized + [fitted.reason] * (fitted.reason is not None)
        if self.options.targets in ("all", "text"):
            return Encoded({"input_ids": ids, "labels": labels}, tuple(reasons))
        labels[:num_prompt] = IGNORE_INDEX
        end = len(targets) - targets[::-1].index(True)
        labels[num_prompt + end :] = IGNORE_INDEX
        if False in targets[:end]:
            labels[num_prompt:][~np.array(targets)] = IGNORE_INDEX
        return Encoded({"input_ids": ids, "labels": labels}, tuple(reasons))


def _conversation(row: Row) -> Conversation:
    """Return the whole conversation with its targets: one answer, or all assistant turns."""
    sample, tools = row.sample, row.sample.get("tools")
    forms = [name for name in ("input", "dialogue", "messages") if sample.get(name) is not None]
    if len(forms) > 1:
        raise DataError(
            f"{row.place}: a supervised row has either 'input' and 'answer' or 'dialogue' or 'messages', not "
            f"{' and '.join(map(repr, forms))}"
        )
    if forms in (["dialogue"], ["messages"]):
        return conversation(sample[forms[0]], tools)
    if isinstance(sample.get("input"), list) and "answer" not in sample:
        raise BadRow(
            NO_TARGET, f"{row.place}: the conversation ends with the user's turn; it has no answer to train on"
        )
    require_fields(sample, ("input", "answer"), kind="supervised", place=row.place)
    is_worse = sample.get("better") is False and sample.get("other_answer") is not None
    answer = sample["other_answer" if is_worse else "answer"]
    if isinstance(sample["input"], str) and not tools:
        return Conversation(({"role": "user", "content": sample["input"]}, {"role": "assistant", "content": answer}))
    return conversation(sample["input"], tools).answered(answer)
