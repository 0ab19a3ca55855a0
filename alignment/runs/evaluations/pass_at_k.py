"""pass@k of answers that a function calls correct or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alignment.errors import DataError, RewardError
from alignment.evaluation.intervals import proportion
from alignment.evaluation.pass_at_k import pass_at_k
from alignment.runs.evaluations.answers import FiledAnswers, GeneratedAnswers, open_answers, prompt_ledger, prompt_text
from alignment.runs.evaluations.judge import TOO_LONG, AnswerJudge, Compared
from alignment.runs.evaluations.summary import Sample, Summary, both_ends, count_cut_off
from alignment.runs.evaluations.work import EvalWork
from alignment.runs.stages.answered import AnsweredRow


@dataclass
class PassWork(EvalWork):
    """Which answers are correct; see ``stage.Work``."""

    @cached_property
    def answers(self) -> GeneratedAnswers | FiledAnswers:
        """The answers."""
        return open_answers(self.parsed)

    @cached_property
    def judge(self) -> AnswerJudge:
        """Who says what is correct."""
        return AnswerJudge(self.parsed, drops_overlong=True)

    @property
    def units(self) -> Any:
        """See ``stage.Work``."""
        return self.answers.units

    def check(self) -> None:
        """Refuse what cannot be measured before work starts."""
        self.judge.check()
        most, (least, where) = max(self.parsed.options.k), self.answers.least()
        if least < most:
            raise DataError(f"k={most} needs at least {most} answers to each prompt, and there are {least} ({where})")

    def inputs(self) -> dict[str, Any]:
        """See ``stage.Work``."""
        return {**self.answers.inputs(), "sources": self.judge.inputs()}

    def rows(self, units: Iterable[range]) -> Iterator[list[dict[str, Any]]]:
        """Yield the answers of each unit, and which are correct."""
        units = [*units]
        for unit, answered in zip(units, self.answers.rows(units), strict=True):
            groups = [Compared(row.prompt, row.responses, row.label, row.reasons) for row in answered]
            found = self.judge.score(groups)
            yield [self._row(*item) for item in zip(unit, answered, found, strict=True)]

    def _row(self, number: int, row: AnsweredRow, rewards: np.ndarray | None) -> dict[str, Any]:
        base = {
            "index": number,
            "prompt": row.prompt,
            "responses": row.responses,
            "label": row.label,
            "finish_reasons": row.reasons,
        }
        if rewards is None:
            return {**base, "left_out": TOO_LONG}
        least = self.parsed.options.correct_from
        if least is None and not np.isin(rewards, (0, 1)).all():
            bad = rewards[~np.isin(rewards, (0, 1))][0]
            raise RewardError(
                f"prompt {number}: the reward of an answer is {bad:g}, and pass@k needs 1 (correct) or 0; give "
                "correct_from, the least reward of a correct answer"
            )
        correct = rewards >= (1 if least is None else least)
        return {**base, "correct": correct.astype(int).tolist()}

    def summarize(self, rows: Iterable[Mapping[str, Any]]) -> Summary:
        """Return pass@k for each k."""
        every = [*rows]
        used = [row for row in every if "correct" in row]
        if not used:
            raise DataError(f"no prompt is left: {len(every)} were {TOO_LONG}")
        counts = [(len(row["correct"]), sum(row["correct"])) for row in used]
        ks = sorted(self.parsed.options.k)
        ranked = sorted(used, key=lambda row: sum(row["correct"]) / len(row["correct"]), reverse=True)
        return Summary(
            title=f"pass@k of {self.answers.name}",
            metrics={
                f"pass@{k}": proportion([pass_at_k(*count, k) for count in counts], self.given.confidence) for k in ks
            },
            notes=["The unbiased estimate from all answers to a prompt, averaged over prompts. Intervals: Wilson."],
            samples=[_sample(row) for row in both_ends(ranked, self.given.num_samples)],
            counts={
                TOO_LONG: len(every) - len(used),
                "answers_cut_off_by_length": count_cut_off(every),
            },
            ledgers=prompt_ledger(self.answers),
        )


def _sample(row: Mapping[str, Any]) -> Sample:
    shown = [*zip(row["correct"], row["responses"], strict=True)][:2]
    return Sample(prompt_text(row["prompt"]), [("correct" if right else "wrong", text) for right, text in shown])
