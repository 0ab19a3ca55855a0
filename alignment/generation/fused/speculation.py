"""Speculative decoding (Leviathan et al. 2023) that gives the very tokens of decoding one by one.

A drafted token is computed in the same pass as the token before it. A row's logits do not depend on the other rows,
and the random number of a token is that of its place in the answer: so what is drawn after a draft is what would be
drawn later if the draft equals the token drawn before it, and is thrown away if not. Every draft comes from a lookup;
there is no second model.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import replace
from typing import Any

import numpy as np

from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.drafts import Drafter, PreviousAnswers
from alignment.generation.fused.fused_settings import AUTO, FusedSettings
from alignment.generation.fused.paging import Counts, Paging
from alignment.generation.fused.scheduler import Scheduler, Step
from alignment.generation.fused.sequences import Sequence
from alignment.records import Completion
from alignment.telemetry import log

MOST_ROWS = 16
"""Rows of a pass up to which drafts of a fixed length join it."""
AUTO_TOKENS = 8
"""The most tokens of a draft whose length is chosen."""
ROWS_OF_WEIGHTS = 5.0
"""Reading the weights takes as long as computing so many rows. Measured: 4 to 7 with 110M parameters in float32 on
one thread (``benchmarks/results/2026-11-30-head-and-sampler.md``)."""
_EXPECTED, _TRIALS = 0.7, 8.0
"""What is assumed of drafts at first, as if it had been seen in so many trials."""


class DraftLengths:
    """How many tokens to draft for a sequence, by how many drafted tokens were right so far in a call.

    With R sequences a token alone costs 1 row and its share of reading the weights, W / R rows. A drafted token costs a
    row, and saves a token where it and all before it are right, which has the probability p^i for the i-th: so it pays
    where p^i (1 + W / R) > 1. It depends on tokens only, not on time, so that a run has the same passes every time.
    """

    def __init__(self, most: int | None) -> None:
        """``most``: always so many, in passes of up to ``MOST_ROWS`` rows; None: what pays."""
        self._most = most
        self._right, self._tried = _EXPECTED * _TRIALS, _TRIALS

    def observe(self, *, right: int, wrong: int) -> None:
        """Record how many drafted tokens were right and wrong; those after a wrong one tell nothing."""
        self._right += right
        self._tried += right + wrong

    def choose(self, num_rows: int) -> int:
        """Return the most tokens of a draft in a pass of ``num_rows`` sequences."""
        if num_rows == 0:
            return 0
        if self._most is not None:
            return max(0, min(self._most, MOST_ROWS // num_rows - 1))
        chance, pays = self._right / self._tried, num_rows / (num_rows + ROWS_OF_WEIGHTS)
        length = 0
        while length < AUTO_TOKENS and chance ** (length + 1) > pays:
            length += 1
        return length


class SpeculativeScheduler(Scheduler):
    """See ``Scheduler``; passes with few rows also compute drafted tokens."""

    def __init__(self, *arguments: Any, drafter: Drafter, lengths: DraftLengths, **options: Any) -> None:
        """See ``Scheduler``."""
        super().__init__(*arguments, **options)
        self._drafter = drafter
        self._lengths = lengths

    def add(self, tokens: np.ndarray, logprobs: np.ndarray) -> int:
        """See ``Scheduler.add``; of what was drawn after a wrong draft nothing is added."""
        step = self._close_step()
        is_right = step.ahead == 0
        num_newest, num_wrong = int(is_right.sum()), 0
        self._decoding = self._append(step.drawn_slots[is_right], tokens[is_right], logprobs[is_right])
        for place in range(1, int(step.ahead.max(initial=0)) + 1):
            # The row before row i is the draft's predecessor, whose drawn token the draft must equal.
            rows = np.flatnonzero(step.ahead == place)
            goes_on = np.isin(step.drawn_slots[rows], self._decoding)
            rows = rows[is_right[rows - 1] & goes_on]
            is_equal = tokens[rows - 1] == step.tokens[step.logit_rows[rows]]
            num_wrong += int((~is_equal).sum())
            rows = rows[is_equal]
            is_right[rows] = True
            slots = step.drawn_slots[rows]
            for slot in slots.tolist():
                self._in_slot[slot].accepted += 1
            going = self._append(slots, tokens[rows], logprobs[rows])
            self._decoding = self._decoding[~np.isin(self._decoding, np.setdiff1d(slots, going))]
        num_added = int(is_right.sum())
        self.counts.accepted += num_added - num_newest
        self._lengths.observe(right=num_added - num_newest, wrong=num_wrong)
        return num_added

    def _finish(self, slot: int, *, stopped: bool) -> None:
        sequence = self._in_slot[slot]
        super()._finish(slot, stopped=stopped)
        counted = {"drafted": sequence.drafted, "accepted": sequence.accepted}
        self._completions[sequence.index] = replace(self._completions[sequence.index], **counted)

    def _admit(self) -> list[Sequence]:
        entered = super()._admit()
        for sequence in entered:
            self._drafter.enter(sequence.slot, sequence.prompt)
        return entered

    def _decode_rows(self, entered: tuple[Sequence, ...]) -> Step:
        step = super()._decode_rows(entered)
        most = self._lengths.choose(len(step.slots))
        drafts = [self._draft(slot, most) for slot in step.slots.tolist()] if most > 0 else []
        lengths = np.array([len(draft) for draft in drafts], np.int64)
        if not lengths.any():
            return step
        self.counts.drafted += int(lengths.sum())
        ahead = np.concatenate([np.arange(1 + length) for length in lengths])
        tokens = np.concatenate([(token, *draft) for token, draft in zip(step.tokens, drafts, strict=True)])
        slots, positions = (np.repeat(column, 1 + lengths) for column in (step.slots, step.positions))
        return step._replace(
            tokens=tokens.astype(np.int32),
            slots=slots,
            positions=positions + ahead.astype(np.int32),
            logit_rows=np.arange(len(tokens), dtype=np.int32),
            drawn_slots=slots,
            ahead=ahead,
        )

    def _draft(self, slot: int, most: int) -> list[int]:
        """Return a draft for ``slot`` that its answer has room for, and blocks (taken while others are not short)."""
        arrays = self.slots
        most = min(most, int(arrays.limits[slot] - arrays.answered[slot]) - 1)
        found = self._drafter.draft(slot, most, answer=arrays.answer(slot)[0]) if most > 0 else []
        last, sequence = arrays.positions[slot] + len(found), self._in_slot[slot]
        while found and last >= arrays.room[slot] and self._paging.num_free > len(self._in_slot):
            arrays.grow(slot, self._paging.grow(sequence))
        found = found[: max(0, arrays.room[slot] - 1 - arrays.positions[slot])]
        sequence.drafted += len(found)
        return found


class Speculation:
    """The drafts of an engine: whether there are any, and where they come from."""

    def __init__(self, settings: FusedSettings, *, is_possible: bool, previous: PreviousAnswers | None) -> None:
        """``is_possible``: see ``Kernels.checks_drafts``; ``previous``: see ``FusedEngine``."""
        self._tokens = settings.speculative_tokens if is_possible else 0
        if settings.speculative_tokens and not is_possible:
            log.warn(f"speculative_tokens={settings.speculative_tokens} has no effect with these kernels")
        self._previous = (previous or PreviousAnswers()) if settings.speculative_method == "previous" else None
        self._drafted = self._accepted = self._num_calls = 0
        self._has_warned = False

    def scheduler(
        self, sequences: Several[Sequence], paging: Paging, options: GenerationOptions, **limits: Any
    ) -> Scheduler:
        """Return the scheduler of one call.

        A repetition penalty depends on which tokens were drawn before, so nothing is drafted with one.
        """
        penalty = options.repetition_penalty
        if self._tokens and penalty != 1.0 and not self._has_warned:
            log.warn(f"speculative_tokens={self._tokens} has no effect with repetition_penalty={penalty:g}")
            self._has_warned = True
        if self._tokens == 0 or penalty != 1.0:
            return Scheduler(sequences, paging, **limits)
        drafter = Drafter(self._previous)
        lengths = DraftLengths(None if self._tokens == AUTO else self._tokens)
        return SpeculativeScheduler(sequences, paging, **limits, drafter=drafter, lengths=lengths)

    def learn(self, sequences: Several[Sequence], completions: Several[Completion], counts: Counts) -> None:
        """Keep the answers for the next time; log after 1, 2, 4, 8, ... calls how many drafts were right."""
        if self._tokens == 0:
            return
        if self._previous is not None:
            self._previous.record([sequence.prompt for sequence in sequences], completions)
        self._num_calls += 1
        self._drafted += counts.drafted
        self._accepted += counts.accepted
        if self._num_calls & (self._num_calls - 1) == 0:
            tokens = sum(len(completion.token_ids) for completion in completions)
            log.info(
                f"speculative decoding: {self._accepted:,} of {self._drafted:,} drafted tokens accepted in "
                f"{self._num_calls:,} calls; the last one took {counts.steps:,} passes for {tokens:,} tokens, "
                f"{counts.accepted / counts.steps:.2f} of them accepted drafts per pass"
            )
