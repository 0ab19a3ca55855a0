"""How often one policy's answers are better than another's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from alignment.errors import ArgumentError, DataError
from alignment.evaluation.pairs import outcome
from alignment.evaluation.win_rate import WinRate, win_rate
from alignment.runs.evaluations.answers import (
    FiledAnswers,
    GeneratedAnswers,
    check_same_prompts,
    open_answers,
    prompt_ledger,
    prompt_text,
)
from alignment.runs.evaluations.judge import TOO_LONG, AnswerJudge, Compared
from alignment.runs.evaluations.summary import ResultTable, Sample, Summary, both_ends, count_cut_off
from alignment.runs.evaluations.work import EvalWork
from alignment.runs.stages.answered import AnsweredRow


@dataclass
class WinRateWork(EvalWork):
    """The rewards of two policies' answers; see ``stage.Work``."""

    @cached_property
    def first(self) -> GeneratedAnswers | FiledAnswers:
        """The answers of the policy."""
        return open_answers(self.parsed)

    @cached_property
    def second(self) -> GeneratedAnswers | FiledAnswers:
        """The answers that they are compared with."""
        return open_answers(self.parsed, "other_")

    @property
    def names(self) -> tuple[str, str]:
        """What tables call both."""
        first, second = self.first.name, self.second.name
        return (first, second) if first != second else (f"{first} (1)", f"{second} (2)")

    @cached_property
    def judge(self) -> AnswerJudge:
        """Who compares them."""
        return AnswerJudge(self.parsed, drops_overlong=True)

    @property
    def units(self) -> Any:
        """See ``stage.Work``."""
        return self.first.units

    def check(self) -> None:
        """Refuse what cannot be compared before work starts."""
        options = self.parsed.options
        for name in ("model_name_or_path", "answers_file"):
            value = getattr(options, name)
            if value is not None and value == getattr(options, f"other_{name}"):
                raise ArgumentError(f"{name} and other_{name} are both {value}: a policy has no rate against itself")
        self.judge.check()
        check_same_prompts(self.first, self.second)
        for number, (mine, theirs) in enumerate(zip(self.first.counts(), self.second.counts(), strict=True)):
            if mine != theirs:
                raise DataError(
                    f"{self.first.name} has {mine} answers to prompt {number} and {self.second.name} {theirs}: both "
                    "need the same number"
                )

    def inputs(self) -> dict[str, Any]:
        """See ``stage.Work``."""
        return {"first": self.first.inputs(), "second": self.second.inputs(), "sources": self.judge.inputs()}

    def rows(self, units: Iterable[range]) -> Iterator[list[dict[str, Any]]]:
        """Yield the answers of both to the prompts of each unit, with their rewards."""
        units = [*units]
        for unit, mine, theirs in zip(units, self.first.rows(units), self.second.rows(units), strict=True):
            pairs = [Compared(*pair) for one, other in zip(mine, theirs, strict=True) for pair in _pairs(one, other)]
            rewards = iter(self.judge.score(pairs))
            yield [
                _row(number, one, other, [next(rewards) for _ in one.responses])
                for number, one, other in zip(unit, mine, theirs, strict=True)
            ]

    def summarize(self, rows: Iterable[Mapping[str, Any]]) -> Summary:
        """Return the win rate, with what length has to do with it."""
        every = [*rows]
        used = [row for row in every if "rewards" in row]
        if not used:
            raise DataError(f"no prompt is left: {len(every)} were {TOO_LONG}")
        margin, (first, second) = self.parsed.options.tie_margin, self.names
        found = _compare(used, margin, self.given.confidence)
        ranked = sorted(used, key=lambda row: np.subtract(row["rewards"], row["other_rewards"]).mean(), reverse=True)
        equal = "" if found.at_equal_length is not None else " It cannot be fitted here."
        return Summary(
            title=f"Win rate of {first} against {second}",
            metrics={
                "win_rate": found.rate,
                "win_rate_at_equal_length": found.at_equal_length,
                "reward_difference": found.margin,
                "length_difference": found.length_difference,
            },
            tables=[_table(used, found, first, second)],
            notes=[
                "win_rate: a tie is half a win; the interval is Wilson's over prompts. The others: bootstrap.",
                "win_rate_at_equal_length: logistic regression of wins on the difference of lengths in characters, "
                f"read at 0.{equal}",
                *self._judged_in_both_orders(),
            ],
            samples=[_sample(row, first, second) for row in both_ends(ranked, self.given.num_samples)],
            counts={
                TOO_LONG: len(every) - len(used),
                f"answers_cut_off_by_length_{first}": count_cut_off(every),
                f"answers_cut_off_by_length_{second}": count_cut_off(every, "other_finish_reasons"),
            },
            ledgers={**prompt_ledger(self.first, f"prompts of {first}")},
        )

    def _judged_in_both_orders(self) -> list[str]:
        if any(entry.kind == "pairwise" for entry in self.parsed.sources.entries):
            return ["The pairwise model read every pair in both orders; a reward is its mean probability of winning."]
        return []


def _pairs(one: AnsweredRow, other: AnsweredRow) -> list[tuple[Any, list[str], str | None, list[str]]]:
    """Return the k-th answers of both policies together, for each k."""
    return [
        (one.prompt, [mine, theirs], one.label, [why, other_why])
        for mine, theirs, why, other_why in zip(one.responses, other.responses, one.reasons, other.reasons, strict=True)
    ]


def _row(number: int, one: AnsweredRow, other: AnsweredRow, rewards: Sequence[np.ndarray | None]) -> dict[str, Any]:
    base = {
        "index": number,
        "prompt": one.prompt,
        "responses": one.responses,
        "other_responses": other.responses,
        "finish_reasons": one.reasons,
        "other_finish_reasons": other.reasons,
    }
    whole = [pair for pair in rewards if pair is not None]
    if len(whole) < len(rewards):
        return {**base, "left_out": TOO_LONG}
    mine, theirs = np.stack(whole).T
    asked = zip(one.responses, one.reasons, other.responses, other.reasons, strict=True)
    same = np.array([row[:2] == row[2:] for row in asked])
    theirs = np.where(same, mine, theirs)  # a model may score equal rows of a batch with other last bits
    return {**base, "rewards": mine.tolist(), "other_rewards": theirs.tolist()}


def _compare(rows: Sequence[Mapping[str, Any]], tie_margin: float, confidence: float) -> WinRate:
    """Return the comparison of rows with one number of answers each."""
    outcomes, margins, lengths = [], [], []
    for row in rows:
        both = [*zip(row["rewards"], row["other_rewards"], strict=True)]
        outcomes.append(np.mean([outcome(mine, theirs, tie_margin) for mine, theirs in both], keepdims=True))
        margins.append(np.mean([mine - theirs for mine, theirs in both], keepdims=True))
        pairs = zip(row["responses"], row["other_responses"], strict=True)
        lengths.append(np.mean([len(mine) - len(theirs) for mine, theirs in pairs], keepdims=True))
    return win_rate(np.stack(outcomes), np.stack(margins), np.stack(lengths), confidence)


def _table(rows: Sequence[Mapping[str, Any]], found: WinRate, first: str, second: str) -> ResultTable:
    def mean(name: str) -> float:
        return float(np.mean([value for row in rows for value in row[name]]))

    def length(name: str) -> float:
        return float(np.mean([len(text) for row in rows for text in row[name]]))

    return ResultTable(
        "Prompts",
        ["policy", "better on", "ties", "mean reward", "mean characters"],
        [
            [first, found.wins, found.ties, mean("rewards"), length("responses")],
            [second, found.losses, found.ties, mean("other_rewards"), length("other_responses")],
        ],
    )


def _sample(row: Mapping[str, Any], first: str, second: str) -> Sample:
    return Sample(
        prompt_text(row["prompt"]),
        [
            (f"{first}, reward {row['rewards'][0]:.3f}", row["responses"][0]),
            (f"{second}, reward {row['other_rewards'][0]:.3f}", row["other_responses"][0]),
        ],
    )
