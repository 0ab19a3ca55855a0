"""Score answers with reward sources: ``alignment score``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from alignment.arguments.parsed import Parsed
from alignment.data.sources.tables import Table, read_table
from alignment.errors import DataError
from alignment.runs.launch import prepare_device
from alignment.runs.stages.answered import AnsweredRow, read_answered
from alignment.runs.stages.score_arguments import ScoreArguments
from alignment.runs.stages.scoring_sources import SourceBuilder, Texts
from alignment.runs.stages.source_inputs import check_sources, source_contents


@dataclass
class Scoring:
    """The work of ``alignment score``; see ``stage.Work``."""

    STAGE: ClassVar[str] = "score"
    parsed: Parsed

    def __post_init__(self) -> None:
        check_sources(self.parsed.sources)

    @property
    def given(self) -> ScoreArguments:
        """See ``stage.Work``."""
        return self.parsed.score

    @cached_property
    def table(self) -> Table:
        """The rows as they are in the file."""
        return read_table(self.given.answers_file)

    @cached_property
    def answered(self) -> list[AnsweredRow]:
        """The rows, checked."""
        rows = [read_answered(row, self.table.describe(number)) for number, row in enumerate(self.table.rows)]
        wanted, compares = self.given.K, [entry for entry in self.parsed.sources.entries if entry.kind == "pairwise"]
        for number, row in enumerate(rows):
            has = len(row.responses)
            if wanted is not None and has != wanted:
                raise DataError(f"{self.table.describe(number)}: K={wanted}, but there are {has} responses")
            if compares and has < 2:
                raise DataError(
                    f"{self.table.describe(number)}: {compares[0].log_as} compares the responses to a prompt, which "
                    f"must stand in one row (prompt and responses), and this row has {has}"
                )
        return rows

    @property
    def units(self) -> list[range]:
        """See ``stage.Work``: whole rows with about ``answers_per_unit`` answers together."""
        found, first, size = [], 0, 0
        for number, row in enumerate(self.answered):
            size += len(row.responses)
            if size >= self.given.answers_per_unit:
                found.append(range(first, number + 1))
                first, size = number + 1, 0
        return found if first == len(self.answered) else [*found, range(first, len(self.answered))]

    def inputs(self) -> dict[str, Any]:
        """Return the contents of the models and of the file."""
        digest = hashlib.sha256()
        for row in self.answered:
            digest.update(repr((row.prompt, row.responses, row.label, row.reasons)).encode())
        return {**source_contents(self.parsed.sources, self.parsed.base_dir), "answers": digest.hexdigest()}

    def rows(self, units: Iterable[range]) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of each unit with the rewards of their answers."""
        texts = Texts()
        device = prepare_device(self.given.device)
        scorer = SourceBuilder(self.parsed.sources, texts, device=device, base_dir=self.parsed.base_dir).build()
        for unit in units:
            answered = [self.answered[number] for number in unit]
            counts = [len(row.responses) for row in answered]
            scores = scorer.score(
                texts.rollout(
                    [row.prompt for row in answered for _ in row.responses],
                    [text for row in answered for text in row.responses],
                    [row.label for row in answered for _ in row.responses],
                    np.repeat(np.arange(len(answered)), counts),
                    [reason for row in answered for reason in row.reasons],
                )
            )
            columns = {"reward": scorer.normalize(scores.columns)}
            if len(scorer.sources) > 1:
                columns |= {f"reward_{name}": values for name, values in scores.by_source.items()}
            ends = np.cumsum(counts)
            yield [
                self._row(number, {name: values[end - count : end] for name, values in columns.items()})
                for number, count, end in zip(unit, counts, ends, strict=True)
            ]

    def _row(self, number: int, rewards: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return the row as it was, with a reward or a list of them."""
        row = {**self.table.rows[number]}
        for name, values in rewards.items():
            if self.answered[number].is_list:
                row[name.replace("reward", "rewards", 1)] = values.tolist()
            else:
                row[name] = float(values[0])
        return row
