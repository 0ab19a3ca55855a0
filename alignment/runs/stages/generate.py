"""Answer prompts and write the answers: ``alignment generate``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from alignment.arguments.parsed import Parsed
from alignment.data import PromptOnlyDataset
from alignment.data.encode import EncodeOptions
from alignment.data.raw.dataset_spec import parse_datasets
from alignment.data.raw.modules import load_dataset_modules
from alignment.data.templates import template_name
from alignment.errors import ArgumentError, DataError
from alignment.generation.engine import Engine, GenerationOptions
from alignment.models.folders.hub import load_causal_lm, resolve_model_folder, working_dtype
from alignment.parallel.comms.group import Group
from alignment.parallel.initialise import select_device
from alignment.records import Completion
from alignment.runs.frozen import frozen_model
from alignment.runs.output_lock import hold_output
from alignment.runs.stages.generate_arguments import FREE
from alignment.runs.stages.parts import Parts, PartWriter
from alignment.runs.stages.policy import Voice, open_engine
from alignment.runs.stages.workers import run_workers
from alignment.telemetry import log
from alignment.telemetry.progress import Progress
from alignment.telemetry.wording import counted

_ROWS_AHEAD = 4
"""Answers of a call of the engine, in units of those generated side by side: the longest are waited for less often."""


def generate(parsed: Parsed) -> None:
    """Answer the prompts of ``parsed`` and write ``output_file``; a run that was interrupted is continued.

    The file does not depend on the number of processes, on how many answers are generated side by side, or on
    interruptions.
    """
    given = parsed.generate
    if given.iter is not None and given.rollout_batch_size is None:
        raise ArgumentError(f"iter={given.iter} needs rollout_batch_size, the number of prompts of a slice")
    work = Generation(parsed)
    parts = Parts(Path(given.output_file))
    parts.folder.parent.mkdir(parents=True, exist_ok=True)
    numbers = work.numbers
    with _held(parts.folder):
        parts.open(work.made_from(), overwrite=given.overwrite)
        todo = sorted({*numbers} - {*parts.done()})
        if len(todo) < len(numbers):
            log.info(f"{counted(len(numbers) - len(todo), 'prompt')} were answered before: continued")
        enabled = not given.disable_tqdm
        with Progress(len(numbers), "prompts", enabled=enabled, start=len(numbers) - len(todo)) as progress:
            if given.num_workers == 1 or len(todo) == 1:
                work.answer(todo, parts.new_file(), progress.advance)
            elif todo:
                run_workers(parsed, parts, todo, progress.advance)
    parts.join(numbers)
    log.info(f"{parts.target}: {counted(given_answers(parsed) * len(numbers), 'answer')} to {len(numbers)} prompts")


def given_answers(parsed: Parsed) -> int:
    """Return the number of answers to each prompt."""
    return parsed.answers.num_return_sequences


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``."""
    folder.mkdir(exist_ok=True)
    with hold_output(folder, Group("world")) as note:
        if note is not None:
            log.warn(note)
        yield


@dataclass
class Generation:
    """The prompts and the model of ``alignment generate``, read when needed."""

    parsed: Parsed

    @cached_property
    def folder(self) -> Path:
        """The folder of the model."""
        return resolve_model_folder(self.parsed.generate.model_name_or_path, parts=("policy",))

    @cached_property
    def voice(self) -> Voice:
        """Its tokenizer and template."""
        return Voice(self.folder, self.parsed.rows.wanted_template)

    @cached_property
    def samples(self) -> PromptOnlyDataset:
        """All prompts."""
        rows, base = self.parsed.rows, self.parsed.base_dir
        load_dataset_modules(rows.dataset_modules, base)
        columns = {"input_key": rows.input_key, "label_key": rows.label_key}
        defaults = {"split": rows.split or "train", **{name: value for name, value in columns.items() if value}}
        longest = self.longest_prompt
        options = EncodeOptions(
            max_length=longest,
            max_prompt_length=longest,
            on_overlong=rows.on_overlong,
            on_bad_row=rows.on_bad_row,
            template=template_name(self.voice.template_name),
            keeps_duplicates=True,
        )
        specs = parse_datasets(self.parsed.generate.prompts, base_dir=base, defaults=defaults)
        found = PromptOnlyDataset(specs, self.voice.tokenizer, options=options, seed=self.parsed.generate.seed)
        log.info(f"{counted(len(found), 'prompt')}; left out or changed: {found.ledger.summary()}")
        return found

    @property
    def longest_prompt(self) -> int:
        """Maximum tokens of a prompt."""
        positions, answer = self.voice.config.longest_sequence, self.parsed.answers.max_dec_len
        room = positions - answer
        if room < 2:
            raise ArgumentError(
                f"max_dec_len={answer} leaves no room for a prompt: the model has {positions} positions"
            )
        wanted = self.parsed.rows.max_prompt_len
        if wanted is not None and wanted > room:
            raise ArgumentError(
                f"max_prompt_len={wanted} and max_dec_len={answer} are more than the model's {positions} positions"
            )
        return wanted or room

    @cached_property
    def numbers(self) -> range:
        """Numbers of the prompts that are answered."""
        given, total = self.parsed.generate, len(self.samples)
        if given.iter is None:
            return range(total)
        first = given.iter * given.rollout_batch_size
        if first >= total:
            last = (total - 1) // given.rollout_batch_size
            raise DataError(
                f"iter={given.iter}: {total} prompts have no slice of that number with "
                f"rollout_batch_size={given.rollout_batch_size} (allowed: 0 to {last})"
            )
        return range(first, min(first + given.rollout_batch_size, total))

    def made_from(self) -> dict[str, Any]:
        """Return what the answers depend on: arguments, the model, and the tokens of the prompts."""
        digest = hashlib.sha256()
        for number in self.numbers:
            digest.update(np.asarray(self.samples[number]["input_ids"], np.int64).tobytes() + b"|")
        kept = {key: value for key, value in self.parsed.as_dict().items() if key not in FREE}
        model = frozen_model("the model", str(self.folder), Group("world")).content
        return {**kept, "model": model, "tokens": digest.hexdigest()}

    def answer(self, numbers: Sequence[int], path: Path, advance: Callable[[int], None]) -> None:
        """Answer the prompts of ``numbers`` and write them to ``path``; call ``advance`` with how many are done."""
        given, answers = self.parsed.generate, self.parsed.answers
        size = max(1, _ROWS_AHEAD * given.per_device_rollout_batch_size // answers.num_return_sequences)
        engine, options = self._open_engine(), self._options()
        with PartWriter(path) as part:
            for first in range(0, len(numbers), size):
                chosen = numbers[first : first + size]
                part.append(self._rows(engine, options, chosen))
                advance(len(chosen))

    def _rows(self, engine: Engine, options: GenerationOptions, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        """Yield the rows of ``numbers``; random numbers are addressed by the place of an answer among all."""
        samples, count = [self.samples[number] for number in numbers], given_answers(self.parsed)
        completions = engine.generate(
            [sample["input_ids"] for sample in samples for _ in range(count)],
            options,
            seed=self.parsed.generate.seed,
            sequence_ids=[number * count + k for number in numbers for k in range(count)],
        )
        for position, (number, sample) in enumerate(zip(numbers, samples, strict=True)):
            own = completions[position * count : (position + 1) * count]
            yield {"index": number, **_asked(sample), **self._answers(own)}

    def _answers(self, completions: Sequence[Completion]) -> dict[str, Any]:
        decode = self.voice.tokenizer.decode
        return {
            "responses": [decode(one.token_ids.tolist(), skip_special_tokens=True) for one in completions],
            "num_tokens": [len(one.token_ids) for one in completions],
            "logprobs": [float(one.logprobs.sum(dtype=np.float64)) for one in completions],
            "finish_reasons": [one.finish_reason for one in completions],
        }

    def _open_engine(self) -> Engine:
        given = self.parsed.generate
        dtype = working_dtype(self.folder, select_device(given.device))
        model = load_causal_lm(self.folder, dtype=dtype, tokenizer=self.voice.tokenizer)
        return open_engine(
            model,
            len(self.voice.tokenizer),
            dtype=dtype,
            kv_memory=given.rollout_kv_memory,
            num_slots=given.per_device_rollout_batch_size,
            max_length=self.longest_prompt + self.parsed.answers.max_dec_len,
        )

    def _options(self) -> GenerationOptions:
        answers, known = self.parsed.answers, self.voice.config.vocab_size
        if unknown := [token for token in answers.stop_token_ids if token >= known]:
            raise ArgumentError(f"stop_token_ids={unknown[0]} is not a token of the model (allowed: 0 to {known - 1})")
        return GenerationOptions(
            max_new_tokens=answers.max_dec_len,
            min_new_tokens=answers.min_dec_len,
            do_sample=answers.do_sample,
            temperature=answers.temperature,
            top_p=answers.top_p,
            top_k=answers.top_k,
            repetition_penalty=answers.repetition_penalty,
            stop_token_ids=tuple(dict.fromkeys((*self.voice.ends, *answers.stop_token_ids))),
        )


def _asked(sample: Any) -> dict[str, Any]:
    """Return the prompt as its row gave it, in the columns that datasets read."""
    raw = sample["raw_input"]
    asked = {"prompt": raw["messages"], "tools": raw["tools"]} if isinstance(raw, dict) else {"prompt": raw}
    return asked if sample["label"] is None else {**asked, "label": sample["label"]}
