"""ROUGE of answers against references."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from alignment.errors import ArgumentError, DataError
from alignment.evaluation.intervals import bootstrap_mean
from alignment.evaluation.rouge import has_words, rouge_scores
from alignment.runs.evaluations.answers import FiledAnswers, GeneratedAnswers, open_answers, prompt_ledger, prompt_text
from alignment.runs.evaluations.summary import Sample, Summary, both_ends, count_cut_off
from alignment.runs.evaluations.work import EvalWork
from alignment.runs.stages.answered import AnsweredRow

_TYPE = re.compile(r"rouge(\d+|L|Lsum)")


@dataclass
class RougeWork(EvalWork):
    """The ROUGE of each prompt's answers; see ``stage.Work``."""

    @cached_property
    def answers(self) -> GeneratedAnswers | FiledAnswers:
        """The answers."""
        return open_answers(self.parsed)

    @property
    def units(self) -> Any:
        """See ``stage.Work``."""
        return self.answers.units

    def check(self) -> None:
        """Refuse what cannot be measured before work starts."""
        for name in self.parsed.options.rouge_types:
            if not _TYPE.fullmatch(name) or name == "rouge0":
                raise ArgumentError(f"rouge_types: {name!r} (allowed: rouge1, rouge2, ..., rougeL, rougeLsum)")
        labels = self.answers.labels()
        missing = [number for number, label in enumerate(labels) if label is None]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(labels)} prompts have no reference, first prompt {missing[0]}: it is the "
                "column label of answers_file, or the answer of a dataset (label_key names another column)"
            )
        if wrong := [number for number, label in enumerate(labels) if not isinstance(label, str)]:
            raise DataError(f"the reference of prompt {wrong[0]} is {labels[wrong[0]]!r:.80}: a label must be a text")
        if not any(map(has_words, filter(None, labels))):
            raise DataError(
                f"no reference has a word that rouge-score reads (letters a to z and digits): {labels[0]!r:.80}"
            )

    def inputs(self) -> dict[str, Any]:
        """See ``stage.Work``."""
        return self.answers.inputs()

    def rows(self, units: Iterable[range]) -> Iterator[list[dict[str, Any]]]:
        """Yield the scores of each unit."""
        units = [*units]
        for unit, answered in zip(units, self.answers.rows(units), strict=True):
            yield [self._row(number, row) for number, row in zip(unit, answered, strict=True)]

    def _row(self, number: int, row: AnsweredRow) -> dict[str, Any]:
        options = self.parsed.options
        base = {
            "index": number,
            "prompt": row.prompt,
            "responses": row.responses,
            "label": row.label,
            "finish_reasons": row.reasons,
        }
        if not has_words(row.label or ""):
            return {**base, "scores": None}
        scores = rouge_scores(
            row.responses, row.label or "", types=options.rouge_types, use_stemmer=options.use_stemmer
        )
        return {**base, "scores": scores}

    def summarize(self, rows: Iterable[Mapping[str, Any]]) -> Summary:
        """Return the mean of each type over prompts."""
        every = [*rows]
        used = [row for row in every if row["scores"] is not None]
        types = self.parsed.options.rouge_types
        ranked = sorted(used, key=lambda row: row["scores"][types[0]], reverse=True)
        return Summary(
            title=f"ROUGE of {self.answers.name}",
            metrics={
                name: bootstrap_mean([row["scores"][name] for row in used], self.given.confidence) for name in types
            },
            notes=["The mean over prompts of the F measure of rouge-score. Intervals: bootstrap over prompts."],
            samples=[_sample(row, types[0]) for row in both_ends(ranked, self.given.num_samples)],
            counts={
                "reference_without_words": len(every) - len(used),
                "answers_cut_off_by_length": count_cut_off(every),
            },
            ledgers=prompt_ledger(self.answers),
        )


def _sample(row: Mapping[str, Any], name: str) -> Sample:
    answers = [(f"answer, {name} {row['scores'][name]:.3f}", row["responses"][0]), ("reference", row["label"])]
    return Sample(prompt_text(row["prompt"]), answers)
