"""Score answers with reward sources: ``alignment score``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from alignment.arguments.parsed import Parsed
from alignment.arguments.rewards.entries import find_faults, read_entries
from alignment.data.raw.conversation import conversation
from alignment.data.raw.layouts.recognise import add_context
from alignment.data.raw.layouts.samples import prompt_of
from alignment.data.raw.raw_sample import check_sample
from alignment.data.sources.tables import Table, read_table
from alignment.errors import ArgumentError, DataError
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.parallel.initialise import select_device
from alignment.records import RawSample
from alignment.rollout.rewards.user_code import load_function
from alignment.runs.frozen import frozen_functions, frozen_model, frozen_tokenizer
from alignment.runs.on_policy.reward_models import tell_readiness
from alignment.runs.stages.score_arguments import ScoreArguments
from alignment.runs.stages.scoring_sources import SourceBuilder, Texts, model_folder
from alignment.runs.stages.stage import ALONE

_LISTS = (("prompt", "responses"),)
_SINGLES = (("prompt", "response"), ("input", "output"))
_REASONS = ("stop", "length")


class _Answered(NamedTuple):
    """A row with answers."""

    prompt: Any
    responses: list[str]
    label: str | None
    reasons: list[str]
    """``stop`` or ``length`` for each response."""
    is_list: bool
    """Whether the row has a list of responses."""


@dataclass
class Scoring:
    """The work of ``alignment score``; see ``stage.Work``."""

    STAGE: ClassVar[str] = "score"
    parsed: Parsed

    def __post_init__(self) -> None:
        sources = self.parsed.sources
        faults = [*find_faults(read_entries(sources.reward_sources), sources.reward_weights)]
        compares = [entry.log_as for entry in sources.entries if entry.kind == "pairwise"]
        if compares and sources.change_of_format is not None:
            faults.append(f"change_of_format: {compares[0]} compares two answers and reads no other form: leave it out")
        if faults:
            raise ArgumentError("\n  ".join(faults))

    @property
    def given(self) -> ScoreArguments:
        """See ``stage.Work``."""
        return self.parsed.score

    @cached_property
    def table(self) -> Table:
        """The rows as they are in the file."""
        return read_table(self.given.answers_file)

    @cached_property
    def answered(self) -> list[_Answered]:
        """The rows, checked."""
        rows = [_read(row, self.table.describe(number)) for number, row in enumerate(self.table.rows)]
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
        folders = {entry.log_as: str(model_folder(entry)) for entry in self.parsed.sources.entries if entry.is_model}
        for folder in folders.values():
            tell_readiness(folder)
        models = {
            name: [
                item.content
                for item in (
                    frozen_model(name, folder, ALONE),
                    *frozen_tokenizer(folder, load_tokenizer(folder), "tokenizer"),
                )
            ]
            for name, folder in folders.items()
        }
        digest = hashlib.sha256()
        for row in self.answered:
            digest.update(repr((row.prompt, row.responses, row.label, row.reasons)).encode())
        named = [entry.name for entry in self.parsed.sources.entries if entry.kind == "function"]
        functions = [*named, *filter(None, [self.parsed.sources.change_of_format])]
        code = frozen_functions([load_function(name, self.parsed.base_dir) for name in functions])
        return {"models": models, "answers": digest.hexdigest(), "functions": [item.content for item in code]}

    def rows(self, units: Iterable[range]) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows of each unit with the rewards of their answers."""
        texts = Texts()
        device = select_device(self.given.device)
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


def _read(row: Mapping[str, Any], place: str) -> _Answered:
    names = next((names for names in (*_LISTS, *_SINGLES) if all(name in row for name in names)), None)
    if names is None:
        layouts = "; ".join(" and ".join(names) for names in (*_LISTS, *_SINGLES))
        raise DataError(f"{place}: no answers to score (read: {layouts})")
    given, is_list = row[names[1]], names in _LISTS
    responses = given if is_list else [given]
    if not isinstance(responses, list) or not responses or not all(isinstance(text, str) for text in responses):
        raise DataError(f"{place}: {names[1]} must be {'texts' if is_list else 'a text'}, got {given!r:.80}")
    for text in responses:
        check_sample({"answer": text}, place)
    reasons = row.get("finish_reasons") if is_list else None
    reasons = ["stop"] * len(responses) if reasons is None else reasons
    if not isinstance(reasons, list) or len(reasons) != len(responses) or not set(reasons) <= set(_REASONS):
        allowed = " or ".join(_REASONS)
        raise DataError(f"{place}: finish_reasons must say {allowed} for each response, got {reasons!r:.80}")
    return _Answered(_asked(row, names[0], place), responses, row.get("label"), reasons, is_list)


def _asked(row: Mapping[str, Any], name: str, place: str) -> Any:
    """Return the prompt with its system message and tools, read as the datasets read it."""
    prompt = RawSample(input=prompt_of(row[name], f"{place}: {name}"))
    sample = check_sample(add_context(prompt, row, place), place)
    if not conversation(sample["input"]).messages[-1].get("content"):
        raise DataError(f"{place}: {name} is empty")
    tools = sample.get("tools")
    return sample["input"] if not tools else {"messages": [*conversation(sample["input"]).messages], "tools": tools}
