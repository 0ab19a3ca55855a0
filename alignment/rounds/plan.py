"""The steps of a loop in order, from its recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from alignment.rounds.processes.children import Children
from alignment.rounds.prompts import Row, condition, read_rows, restore, share_of, write_rows
from alignment.rounds.reading.recipe import LoopRecipe
from alignment.rounds.reading.stage_keys import StageKeys
from alignment.rounds.steps import Command, LoopStep, trainer_words
from alignment.runs.stages.select import select_file
from alignment.telemetry.files import replace_file

HELD_OUT = "held_out"
_CONDITIONED = "conditioned_"


@dataclass(frozen=True)
class Planner:
    """Makes the steps of a recipe."""

    recipe: LoopRecipe
    prompts: Sequence[Row]
    """All prompts of the rounds; none: the loop has no prompts."""
    held_out: Sequence[Row]
    children: Children

    @property
    def folder(self) -> Path:
        """The folder of the loop."""
        return Path(self.recipe.loop.output_dir)

    def steps(self) -> list[LoopStep]:
        """Return every step of the loop, in order."""
        found = [*self._held_out(), *self._evaluate(0)]
        for number in range(1, self.recipe.loop.rounds + 1):
            found += [*self._round(number), *self._evaluate(number)]
        return found

    def _round(self, number: int) -> Iterator[LoopStep]:
        if self.prompts:
            yield self._share(number)
        if self.recipe.generate is not None:
            yield from self._answer(number, "generate", self.recipe.generate, "prompts", "answers", number)
        if self.recipe.score is not None:
            yield self._score(number, "score", self.recipe.score, "answers", "scored", seed_of=number)
        if self.recipe.select is not None:
            yield self._select(number, self.recipe.select)
        yield self._train(number)

    def place(self, number: int) -> Path:
        """Return the folder of a round."""
        return self.folder / f"round-{number}"

    def model(self, number: int) -> Path | str:
        """Return the model that round ``number`` trained; 0: the initial one."""
        if number == 0:
            return self.recipe.loop.model_name_or_path
        return self.place(number) / "train" / self.recipe.train.trainer.models[0]

    def _model_input(self, label: str, number: int) -> dict[str, Path]:
        """Return a model as an input of a step; the name of a model on a hub stands for its content."""
        place = Path(self.model(number))
        return {label: place} if place.is_absolute() else {}

    def _is_conditional(self, number: int) -> bool:
        """Tell whether the policy after round ``number`` answers prompts with a reward in them."""
        return self.recipe.conditional is not None and number > 0

    def _files(self, place: Path, name: str) -> dict[str, Path]:
        names = [f"{name}.jsonl", *([f"{_CONDITIONED}{name}.jsonl"] if self.recipe.conditional else [])]
        return {name: place / name for name in names}

    def _write_prompts(self, rows: Sequence[Row], place: Path, name: str, _continues: bool) -> None:
        replace_file(place / f"{name}.jsonl", write_rows(rows))
        if (method := self.recipe.conditional) is not None:
            asked = condition(rows, method, self.recipe.loop.condition_reward)
            replace_file(place / f"{_CONDITIONED}{name}.jsonl", write_rows(asked))

    def _prompt_step(
        self, number: int, stage: str, rows: Sequence[Row], name: str, keys: Mapping[str, Any]
    ) -> LoopStep:
        place, method = self.place(number), self.recipe.conditional
        conditioned = {**vars(method), "condition_reward": self.recipe.loop.condition_reward} if method else {}
        return LoopStep(
            round_number=number,
            stage=stage,
            keys={**keys, **conditioned},
            digests={"the prompts": _digest(rows)},
            outputs=self._files(place, name),
            work=partial(self._write_prompts, rows, place, name),
        )

    def _held_out(self) -> Iterator[LoopStep]:
        if self.recipe.evaluate is not None:
            yield self._prompt_step(0, HELD_OUT, self.held_out, HELD_OUT, {})

    def _share(self, number: int) -> LoopStep:
        loop = self.recipe.loop
        share = share_of(len(self.prompts), rounds=loop.rounds, number=number, size=loop.rollout_batch_size)
        rows = [self.prompts[index] for index in share]
        return self._prompt_step(number, "prompts", rows, "prompts", {"first": share.start, "of": len(self.prompts)})

    def _answer(
        self, number: int, stage: str, keys: StageKeys, prompts: str, target: str, seed_of: int, **changes: Any
    ) -> Iterator[LoopStep]:
        """Yield the steps that answer ``prompts``, and put the plain prompts back where rewards stand in them."""
        place = self.place(number)
        source = self.place(0 if prompts == HELD_OUT else number)
        policy = number if prompts == HELD_OUT else number - 1
        is_conditional = self._is_conditional(policy)
        asked, made = (f"{_CONDITIONED if is_conditional else ''}{name}.jsonl" for name in (prompts, target))
        own, inputs = keys.made_from(seed_of)
        filled = {
            "model_name_or_path": str(self.model(policy)),
            "prompts": f"jsonl:1.0:{source / asked}",
            "output_file": str(place / made),
            "overwrite": True,
        }
        name = f"round-{number}/{stage}"
        yield LoopStep(
            round_number=number,
            stage=stage,
            keys={**own, **changes},
            inputs={**inputs, **self._model_input("the model", policy), asked: source / asked},
            outputs={made: place / made},
            work=self._command(name, "generate", {**keys.arguments(filled, round_number=seed_of), **changes}),
        )
        if is_conditional:
            files = {file: source / file for file in (f"{prompts}.jsonl", asked)} | {made: place / made}
            yield LoopStep(
                round_number=number,
                stage=f"{stage}_plain",
                inputs=files,
                outputs={f"{target}.jsonl": place / f"{target}.jsonl"},
                work=partial(_restore, *files.values(), place / f"{target}.jsonl"),
            )

    def _score(self, number: int, stage: str, keys: StageKeys, answers: str, target: str, *, seed_of: int) -> LoopStep:
        place = self.place(number)
        own, inputs = keys.made_from(seed_of)
        filled: dict[str, Any] = {"output_file": str(place / f"{target}.jsonl"), "overwrite": True}
        if "answers_file" in keys.filled:
            inputs[f"{answers}.jsonl"] = place / f"{answers}.jsonl"
            filled["answers_file"] = str(place / f"{answers}.jsonl")
        return LoopStep(
            round_number=number,
            stage=stage,
            keys=own,
            inputs=inputs,
            outputs={f"{target}.jsonl": place / f"{target}.jsonl"},
            work=self._command(f"round-{number}/{stage}", "score", keys.arguments(filled)),
        )

    def _select(self, number: int, keys: StageKeys) -> LoopStep:
        place = self.place(number)
        own, inputs = keys.made_from()
        return LoopStep(
            round_number=number,
            stage="select",
            keys=own,
            inputs={**inputs, "scored.jsonl": place / "scored.jsonl"},
            outputs={name: place / name for name in ("chosen.jsonl", "ledger.json")},
            work=partial(_select, keys, place),
        )

    def _train(self, number: int) -> LoopStep:
        training, loop, place = self.recipe.train, self.recipe.loop, self.place(number)
        keys = training.keys
        rows = "prompts.jsonl" if training.trainer.is_on_policy else "chosen.jsonl"
        own, inputs = keys.made_from(number)
        start = number - 1 if loop.train_from == "previous" else 0
        reference = number - 1 if loop.reference == "previous" else 0
        filled: dict[str, Any] = {
            "train_datasets": f"jsonl:1.0:{place / rows}",
            training.model_key: str(self.model(start)),
            "output_dir": str(place / "train"),
            "overwrite_output_dir": True,
        }
        inputs |= {rows: place / rows, **self._model_input("the model", start)}
        if training.has_reference and training.reference_key:
            filled[training.reference_key] = str(self.model(reference))
            inputs |= self._model_input("the reference", reference)
        if loop.critic == "previous" and number > 1:
            critic = self.place(number - 1) / "train" / "value"
            filled["reward_critic_model_name_or_path"] = str(critic)
            inputs["the critic"] = critic
        logs = place / "logs" / "ranks"
        return LoopStep(
            round_number=number,
            stage="train",
            keys={"trainer": training.trainer.name, "num_processes": training.num_processes, **own},
            inputs=inputs,
            outputs={name: place / "train" / name for name in self._made_models()},
            work=self._command(
                f"round-{number}/train",
                None,
                keys.arguments(filled, round_number=number),
                words=trainer_words(training.trainer.name, training.trainer.door, training.num_processes, logs),
                resumed={"overwrite_output_dir": False, "resume_from_checkpoint": True},
            ),
        )

    def _command(self, step: str, stage: str | None, arguments: Mapping[str, Any], **options: Any) -> Command:
        logs = self.folder / step.partition("/")[0] / "logs"
        return Command(self.children, logs, step, stage, arguments, **options)

    def _made_models(self) -> tuple[str, ...]:
        models = self.recipe.train.trainer.models
        return models[:2] if self.recipe.train.has_critic else models[:1]

    def _evaluate(self, number: int) -> Iterator[LoopStep]:
        evaluation = self.recipe.evaluate
        if evaluation is None:
            return
        greedy = {"greedy": {"do_sample": False, "num_return_sequences": 1}} if evaluation.greedy else {}
        kinds: dict[str, dict[str, Any]] = {"sampled": {}} | greedy
        for kind, changes in kinds.items():
            yield from self._answer(number, f"answer_{kind}", evaluation.generate, HELD_OUT, kind, 1, **changes)
        place = self.place(number)
        files = {f"{kind}.jsonl": place / f"{kind}.jsonl" for kind in kinds}
        yield LoopStep(
            round_number=number,
            stage="gather",
            inputs=files,
            outputs={"answered.jsonl": place / "answered.jsonl"},
            work=partial(_gather, files, place / "answered.jsonl"),
        )
        yield self._score(number, "judge", evaluation.score, "answered", "judged", seed_of=1)


def _digest(rows: Sequence[Row]) -> str:
    return hashlib.sha256(write_rows(rows).encode()).hexdigest()


def _restore(plain: Path, asked: Path, answered: Path, target: Path, _continues: bool) -> None:
    replace_file(target, write_rows(restore(read_rows(answered), read_rows(plain), read_rows(asked))))


def _select(keys: StageKeys, place: Path, _continues: bool) -> None:
    ledger = select_file(place / "scored.jsonl", place / "chosen.jsonl", keys.parsed.options)
    account = ledger.as_dict()
    replace_file(place / "ledger.json", json.dumps(account, indent=1).replace(f"{place}/", ""))


def _gather(files: Mapping[str, Path], target: Path, _continues: bool) -> None:
    """Put the answers of all ways of decoding into one file, which is scored at once."""
    rows = [{**row, "decoding": Path(name).stem} for name, path in files.items() for row in read_rows(path)]
    replace_file(target, write_rows(rows))
