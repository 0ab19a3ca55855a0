"""Read the file of a loop: its own keys and those of its stages, with every problem told at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignment.arguments.files import read_file
from alignment.arguments.parsed import Parsed
from alignment.arguments.parser import parse_arguments
from alignment.arguments.rewards.entries import find_faults, read_entries
from alignment.arguments.sources import BARE, Given, NestedKeys, Source, read_command_line
from alignment.errors import ArgumentError, UserError
from alignment.registry import near_matches
from alignment.rounds.reading.loop_arguments import (
    EVALUATE_GROUPS,
    GROUPS,
    STAGES,
    EvaluateArguments,
    LoopArguments,
    PromptSource,
)
from alignment.rounds.reading.mismatches import find_choices, find_mismatches
from alignment.rounds.reading.stage_keys import StageKeys, parse_stage, read_object, told_problems
from alignment.rounds.reading.training_keys import Training, read_training
from alignment.runs.stages import generate_arguments, score_arguments, select_arguments
from alignment.selection.conditional import Conditional
from alignment.trainers.trainer import Trainer


@dataclass(frozen=True)
class Evaluation:
    """How every model is judged on held-out prompts."""

    prompts: PromptSource
    generate: StageKeys
    score: StageKeys
    greedy: bool


@dataclass(frozen=True)
class LoopRecipe:
    """A loop as its file describes it."""

    loop: LoopArguments
    prompts: PromptSource
    base_dir: Path
    generate: StageKeys | None
    score: StageKeys | None
    select: StageKeys | None
    train: Training
    evaluate: Evaluation | None

    @property
    def conditional(self) -> Conditional | None:
        """The method that puts rewards into prompts, if that is what is trained on."""
        options = self.select.parsed.options if self.select else None
        return options if isinstance(options, Conditional) else None


def read_recipe(argv: Sequence[str]) -> LoopRecipe:
    """Read ``[FILE.json] [--key value] [--stage.key value]``; an ArgumentError has the problems of all stages."""
    problems: list[str] = []
    parsed, sections = _read_loop(argv, problems)
    recipe = _Reader(parsed, sections, problems).read()
    if recipe is not None and not problems:
        problems += find_mismatches(recipe)
    if recipe is None or problems:
        raise ArgumentError("\n  ".join([f"{len(problems)} invalid argument(s):", *problems]))
    return recipe


def _read_loop(argv: Sequence[str], problems: list[str]) -> tuple[Parsed | None, dict[str, NestedKeys]]:
    """Return the loop's own keys (None if they have problems, which are added), and the object of each stage with what
    the command line changes in it.
    """
    path = Path(argv[0]) if argv and not argv[0].startswith("-") else None
    of_stages, rest = _split_words(list(argv[1:] if path else argv))
    changes, own = read_command_line(of_stages), read_command_line(rest)
    source = read_file(path) if path else Source([], [])
    problems += [*source.problems, *changes.problems, *own.problems]
    keys = {given.key: given.value for given in source.given}
    keys |= {given.key: "true" if given.value is BARE else given.value for given in own.given}
    for change in changes.given:
        _apply(keys, change, problems)
    place, base_dir = str(path or "command line"), path.absolute().parent if path else Path.cwd()
    sections = {}
    for stage in STAGES:
        try:
            sections |= read_object(stage, keys.get(stage), place, base_dir)
        except UserError as error:
            problems.append(str(error))
    try:
        return parse_arguments(GROUPS, NestedKeys(keys, place, base_dir)), sections
    except UserError as error:
        problems += told_problems(error)
        return None, sections


def _split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """Return the words of ``--stage.key value``, and the others."""
    dotted: list[str] = []
    others: list[str] = []
    target = others
    for word in words:
        if word.startswith("--"):
            target = dotted if "." in word.partition("=")[0] else others
        target.append(word)
    return dotted, others


def _apply(keys: dict[str, Any], change: Given, problems: list[str]) -> None:
    """Put ``--stage.key value`` into the object of the stage."""
    *parents, name = change.key.split(".")
    place: Any = keys
    for number, parent in enumerate(parents):
        if number == 0 and parent not in STAGES:
            problems.append(f"--{change.key}: {parent} is no stage{near_matches(parent, STAGES)} ({', '.join(STAGES)})")
            return
        place[parent] = dict(place.get(parent) or {})
        place = place[parent]
    place[name] = "true" if change.value is BARE else change.value


class _Reader:
    """Reads the stages of one recipe, collecting problems."""

    def __init__(self, parsed: Parsed | None, sections: Mapping[str, NestedKeys], problems: list[str]) -> None:
        """``parsed`` is None if the loop's own keys have problems: then those of the stages are found, too."""
        self._parsed = parsed
        self._sections = sections
        self._problems = problems
        self._model = parsed.loop.model_name_or_path if parsed else str(Path(__file__).parent)
        self._file = __file__
        """Stands for files that stages will write."""

    def read(self) -> LoopRecipe | None:
        """Return the recipe; None if it cannot be one."""
        sections, parsed = self._sections, self._parsed
        generate = self._generate(sections.get("generate"))
        score = self._score(sections.get("score"), from_file="generate" not in sections)
        select = self._select(sections.get("select"))
        train = read_training(sections["train"], self._model, self._problems) if "train" in sections else None
        evaluate = self._evaluate(sections.get("evaluate"))
        if parsed is None or train is None:
            return None
        self._problems += find_gaps(sections, parsed.prompts.prompts, parsed.loop.rounds, train.trainer)
        self._problems += find_choices(parsed.loop, train)
        return LoopRecipe(parsed.loop, parsed.prompts, parsed.base_dir, generate, score, select, train, evaluate)

    def _generate(self, section: NestedKeys | None) -> StageKeys | None:
        filled = {
            **{"model_name_or_path": self._model, "prompts": f"jsonl:1.0:{self._file}"},
            **{"output_file": "answers.jsonl", "overwrite": True, "iter": None, "rollout_batch_size": None},
            **dict.fromkeys(("input_key", "label_key", "split")),
            "dataset_modules": [],
        }
        return self._stage("generate", section, generate_arguments.GROUPS, filled)

    def _score(self, section: NestedKeys | None, *, from_file: bool = False) -> StageKeys | None:
        filled = {"output_file": "scored.jsonl", "overwrite": True}
        filled |= {} if from_file else {"answers_file": self._file}
        found = self._stage("score", section, score_arguments.GROUPS, filled)
        if found is not None:
            sources = found.parsed.sources
            faults = find_faults(read_entries(sources.reward_sources), sources.reward_weights)
            self._problems += [f"score: {fault}" for fault in faults]
        return found

    def _select(self, section: NestedKeys | None) -> StageKeys | None:
        filled = {"scored_file": self._file, "output_file": "chosen.jsonl", "overwrite": True}
        return self._stage("select", section, select_arguments.GROUPS, filled)

    def _stage(
        self, stage: str, section: NestedKeys | None, groups: Any, filled: Mapping[str, Any]
    ) -> StageKeys | None:
        return section and parse_stage(stage, section, groups, filled=filled, problems=self._problems)

    def _evaluate(self, section: NestedKeys | None) -> Evaluation | None:
        if section is None:
            return None
        try:
            parsed = parse_arguments(EVALUATE_GROUPS, section)
        except UserError as error:
            self._problems += [f"evaluate: {problem}" for problem in told_problems(error)]
            return None
        given: EvaluateArguments = parsed.evaluate
        if parsed.prompts.prompts is None:
            self._problems.append("evaluate: missing required argument 'prompts'")
        inner: dict[str, NestedKeys] = {}
        for name in ("generate", "score"):
            inner |= read_object(name, getattr(given, name), f"evaluate of {section.place}", section.base_dir)
        generate, score = self._generate(inner.get("generate")), self._score(inner.get("score"))
        return generate and score and Evaluation(parsed.prompts, generate, score, given.greedy)


def find_gaps(sections: Mapping[str, NestedKeys], prompts: str | None, rounds: int, trainer: Trainer) -> Iterator[str]:
    """Yield what is missing between the stages, or is there without use."""
    answers = "generate" in sections
    if trainer.is_on_policy:
        extra = [stage for stage in ("generate", "score", "select") if stage in sections]
        if extra:
            yield f"{trainer.name} answers and scores for itself: leave {', '.join(extra)} out"
    elif "select" not in sections or "score" not in sections:
        yield f"{trainer.name} trains on chosen answers: give score and select, and generate for new answers"
    if prompts is None and (answers or trainer.is_on_policy):
        yield "missing required argument 'prompts': the prompts of the rounds"
    if not answers and not trainer.is_on_policy:
        if prompts is not None:
            yield "prompts: nothing answers them: give generate, or leave prompts out"
        if rounds > 1:
            yield f"rounds={rounds}: without generate every round would be the same (allowed: 1)"
