"""How often reward sources give the better answer of a pair the higher score, by subset and section."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from alignment.errors import ArgumentError, DataError
from alignment.evaluation.intervals import proportion
from alignment.evaluation.pairs import (
    REWARDBENCH,
    Sections,
    SectionScore,
    by_subset,
    check_sections,
    outcome,
    overall_score,
    record_lines,
    section_scores,
    subset_accuracy,
)
from alignment.runs.evaluations.answers import prompt_text
from alignment.runs.evaluations.judge import TOO_LONG, AnswerJudge, Compared
from alignment.runs.evaluations.pair_rows import Pair, PairRows
from alignment.runs.evaluations.summary import ResultTable, Sample, Summary, both_ends, interval_text, interval_title
from alignment.runs.evaluations.work import EvalWork
from alignment.runs.stages.stage import cut
from alignment.telemetry.files import replace_file
from alignment.telemetry.tables import format_number

_PAIRS_OF_A_UNIT = 64


@dataclass
class RewardAccuracyWork(EvalWork):
    """The scores of pairs; see ``stage.Work``."""

    @cached_property
    def pairs(self) -> PairRows:
        """All pairs that are used."""
        return PairRows.read(self.parsed.options)

    @cached_property
    def sections(self) -> Sections | None:
        """Sections with their subsets; None: only subsets are reported."""
        named = self.parsed.options.sections
        if named is None or named == "rewardbench":
            return None if named is None else REWARDBENCH
        return read_sections(named, self.parsed.base_dir)

    @cached_property
    def judge(self) -> AnswerJudge:
        """Who scores."""
        return AnswerJudge(self.parsed, drops_overlong=self.parsed.options.on_overlong == "drop")

    @property
    def units(self) -> list[range]:
        """See ``stage.Work``."""
        return cut(range(len(self.pairs.pairs)), _PAIRS_OF_A_UNIT)

    def check(self) -> None:
        """Refuse what cannot be measured before work starts."""
        options, sections = self.parsed.options, self.sections
        if options.record_file is not None and sections is None:
            raise ArgumentError("record_file is given, but no sections: give sections: rewardbench")
        self.judge.check()
        subsets = [pair.subset for pair in self.pairs.pairs]
        if sections is not None:
            check_sections(subsets, sections, allow_missing=options.allow_missing)

    def inputs(self) -> dict[str, Any]:
        """See ``stage.Work``."""
        digest = hashlib.sha256()
        for pair in self.pairs.pairs:
            digest.update(repr(pair).encode())
        return {"pairs": digest.hexdigest(), "sources": self.judge.inputs()}

    def rows(self, units: Iterable[range]) -> Iterator[list[dict[str, Any]]]:
        """Yield the scores of the pairs of each unit."""
        for unit in units:
            pairs = [self.pairs.pairs[number] for number in unit]
            found = self.judge.score([Compared(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs])
            yield [_row(*item) for item in zip(unit, pairs, found, strict=True)]

    def summarize(self, rows: Iterable[Mapping[str, Any]]) -> Summary:
        """Return the accuracy of all pairs, of each subset and of each section."""
        every = [*rows]
        used = [row for row in every if "rewards" in row]
        confidence, sections = self.given.confidence, self.sections
        lost = dict.fromkeys(row["subset"] for row in every)
        if empty := [name for name in lost if not any(row["subset"] == name for row in used)]:
            raise DataError(f"no pair of subset {empty[0]!r} is left: all were {TOO_LONG}")
        outcomes = by_subset([row["subset"] for row in used], [outcome(*row["rewards"]) for row in used])
        longer = by_subset([row["subset"] for row in used], [_prefers_longer(row) for row in used])
        scores = self._section_scores(outcomes)
        metrics: dict[str, Any] = {"accuracy": proportion(np.concatenate([*outcomes.values()]).tolist(), confidence)}
        for section, score in scores.items():
            metrics[section] = score.estimate
        if sections is not None:
            metrics["mean_of_sections"] = overall_score(scores)
        metrics["accuracy_of_the_longer_answer"] = float(np.concatenate([*longer.values()]).mean())
        ranked = sorted(used, key=lambda row: row["rewards"][0] - row["rewards"][1])
        return Summary(
            title=f"Reward accuracy of {self._judges()}",
            metrics=metrics,
            tables=[self._subset_table(outcomes, longer)],
            notes=self._notes(scores),
            samples=[_sample(row) for row in both_ends(ranked, self.given.num_samples)],
            counts={TOO_LONG: len(every) - len(used), "ties": sum(r["rewards"][0] == r["rewards"][1] for r in used)},
            ledgers={"evaluation": self.pairs.ledger.as_dict()},
        )

    def record(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append the scores of the sections to ``record_file``, unless it ends with them."""
        target = self.parsed.options.record_file
        if target is None:
            return
        used = [row for row in rows if "rewards" in row]
        outcomes = by_subset([row["subset"] for row in used], [outcome(*row["rewards"]) for row in used])
        names = " + ".join(entry.name for entry in self.parsed.sources.entries)
        text = record_lines(names, self._section_scores(outcomes))
        before = Path(target).read_text(encoding="utf-8") if Path(target).exists() else ""
        if not before.endswith(text):
            replace_file(Path(target), before + text)

    def _section_scores(self, outcomes: Mapping[str, np.ndarray]) -> dict[str, SectionScore]:
        if self.sections is None:
            return {}
        weighting = self.parsed.options.section_weights
        return section_scores(outcomes, self.sections, weighting=weighting, confidence=self.given.confidence)

    def _judges(self) -> str:
        return " + ".join(entry.log_as for entry in self.parsed.sources.entries)

    def _subset_table(self, outcomes: Mapping[str, np.ndarray], longer: Mapping[str, np.ndarray]) -> ResultTable:
        confidence = self.given.confidence
        columns = ["subset", "section", "pairs", "accuracy", interval_title(confidence), "ties", "longer is better"]
        owner = {name: section for section, names in (self.sections or {}).items() for name in names}
        rows = [
            [
                name,
                owner.get(name, ""),
                estimate.count,
                format_number(estimate.value),
                interval_text(estimate),
                int((outcomes[name] == 0.5).sum()),
                format_number(float(longer[name].mean())),
            ]
            for name, estimate in subset_accuracy(outcomes, confidence).items()
        ]
        return ResultTable("Subsets", columns, rows)

    def _notes(self, scores: Mapping[str, SectionScore]) -> list[str]:
        notes = ["A tie counts as half. longer is better: the accuracy of preferring the longer answer."]
        if self.sections is not None:
            by = "the weights of the benchmark" if self.parsed.options.section_weights == "benchmark" else "their rows"
            notes.append(
                f"A section is the mean of its subsets by {by}; its interval is Wilson's, for the effective number of "
                "pairs."
            )
        notes += [
            f"{section}: no row of {', '.join(score.missing)}" for section, score in scores.items() if score.missing
        ]
        return notes


def read_sections(path: str, base_dir: Path) -> Sections:
    """Read {section: {subset: weight}} from a JSON file."""
    place = next((place for place in (base_dir / path, Path(path)) if place.is_file()), None)
    if place is None:
        raise ArgumentError(f"sections: no file {path} (allowed: rewardbench, or a JSON file)")
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArgumentError(f"sections: {place} is not valid JSON: {error}") from error
    parts = found.values() if isinstance(found, dict) and found else [None]
    weights = [
        weight for names in parts for weight in (names.values() if isinstance(names, dict) and names else [None])
    ]
    if not all(_is_weight(weight) for weight in weights):
        raise ArgumentError(f"sections: {place} must hold {{section: {{subset: weight above 0}}}}")
    return found


def _is_weight(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _row(number: int, pair: Pair, rewards: np.ndarray | None) -> dict[str, Any]:
    base = {"index": number, **pair._asdict()}
    return {**base, "left_out": TOO_LONG} if rewards is None else {**base, "rewards": rewards.tolist()}


def _prefers_longer(row: Mapping[str, Any]) -> float:
    return outcome(len(row["chosen"]), len(row["rejected"]))


def _sample(row: Mapping[str, Any]) -> Sample:
    texts = [
        (f"{side}, reward {reward:.3f}", row[side])
        for side, reward in zip(("chosen", "rejected"), row["rewards"], strict=True)
    ]
    return Sample(prompt_text(row["prompt"]), texts)
