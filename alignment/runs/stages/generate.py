"""Answer prompts and write the answers: ``alignment generate``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alignment.arguments.parsed import Parsed
from alignment.data import PromptOnlyDataset
from alignment.data.encode import EncodeOptions
from alignment.data.raw.dataset_spec import parse_datasets
from alignment.data.raw.modules import load_dataset_modules
from alignment.data.templates import template_name
from alignment.errors import ArgumentError, DataError, UserError
from alignment.generation.engine import Engine, GenerationOptions
from alignment.models.folders.hub import load_causal_lm, resolve_model_folder, working_dtype
from alignment.models.folders.sequence_ends import with_stop_tokens
from alignment.parallel.initialise import select_device
from alignment.records import Completion
from alignment.runs.datasets import crossing_prompts
from alignment.runs.frozen import frozen_model
from alignment.runs.stages.generate_arguments import GenerateArguments
from alignment.runs.stages.policy import Voice, open_engine
from alignment.runs.stages.served_answers import ServedAnswers, ServedPrompt
from alignment.runs.stages.stage import ALONE, cut
from alignment.telemetry import log
from alignment.telemetry.wording import counted

_ROWS_AHEAD = 4
"""Answers of a call of the engine, in units of those generated side by side: the longest are waited for less often."""


@dataclass
class Generation:
    """The work of ``alignment generate``; see ``stage.Work``."""

    STAGE: ClassVar[str] = "generate"
    parsed: Parsed

    @property
    def given(self) -> GenerateArguments:
        """See ``stage.Work``."""
        return self.parsed.generate

    @cached_property
    def folder(self) -> Path:
        """The folder of the model."""
        return resolve_model_folder(self.given.model_name_or_path, parts=("policy",))

    @cached_property
    def voice(self) -> Voice:
        """Its tokenizer and template."""
        rows = self.parsed.rows
        return Voice(self.folder, rows.wanted_template, rows.tokenizer_chat_template)

    @cached_property
    def samples(self) -> PromptOnlyDataset:
        """All prompts."""
        rows, base = self.parsed.rows, self.parsed.base_dir
        load_dataset_modules(rows.dataset_modules, base)
        columns = {"input_key": rows.input_key, "label_key": rows.label_key}
        defaults = {"split": rows.split or "train", **{name: value for name, value in columns.items() if value}}
        longest, answer = self.longest_prompt, self.parsed.answers.max_dec_len
        options = EncodeOptions(
            max_length=longest,
            max_prompt_length=longest,
            unanswerable=crossing_prompts(self.voice.config, answer, longest + answer),
            on_overlong=rows.on_overlong,
            on_bad_row=rows.on_bad_row,
            template=template_name(self.voice.template_name),
            keeps_duplicates=True,
        )
        specs = parse_datasets(self.given.prompts, base_dir=base, defaults=defaults)
        found = PromptOnlyDataset(specs, self.voice.tokenizer, options=options, seed=self.given.seed)
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

    @property
    def units(self) -> list[range]:
        """See ``stage.Work``."""
        size = _ROWS_AHEAD * self.given.per_device_rollout_batch_size // self.count
        return cut(self.numbers, 1 if self.parsed.servers.servers else max(1, size))

    @property
    def count(self) -> int:
        """Answers to each prompt."""
        return self.parsed.answers.num_return_sequences

    @property
    def numbers(self) -> range:
        """Numbers of the prompts that are answered."""
        given, total = self.given, len(self.samples)
        if given.iter is None:
            return range(total)
        if given.rollout_batch_size is None:
            raise ArgumentError(f"iter={given.iter} needs rollout_batch_size, the number of prompts of a slice")
        first = given.iter * given.rollout_batch_size
        if first >= total:
            last = (total - 1) // given.rollout_batch_size
            raise DataError(
                f"iter={given.iter}: {total} prompts have no slice of that number with "
                f"rollout_batch_size={given.rollout_batch_size} (allowed: 0 to {last})"
            )
        return range(first, min(first + given.rollout_batch_size, total))

    def inputs(self) -> dict[str, Any]:
        """Return the content of the model (of servers: its name), and the prompts with their tokens and labels."""
        digest = hashlib.sha256()
        for number in self.numbers:
            sample = self.samples[number]
            digest.update(repr((sample["input_ids"].tolist(), sample["raw_input"], sample["label"])).encode())
        if self.parsed.servers.servers:
            served = self.served
            return {"served": [served.names, served.is_ours, served.weights], "prompts": digest.hexdigest()}
        model = frozen_model("the model", str(self.folder), ALONE).content
        return {"model": model, "prompts": digest.hexdigest()}

    @cached_property
    def served(self) -> ServedAnswers:
        """The servers that answer."""
        given, answers = self.given, self.parsed.answers
        if given.num_workers > 1:
            raise ArgumentError(f"num_workers={given.num_workers} with servers: one process asks all of them")
        width = max(1, given.per_device_rollout_batch_size // answers.num_return_sequences)
        found = ServedAnswers(
            self.parsed.servers, self._options(), count=answers.num_return_sequences, seed=given.seed, width=width
        )
        if self.parsed.servers.server_prompts == "ids" and found.tokenizers - {self.voice.tokenizer.fingerprint()}:
            raise ArgumentError(
                f"servers: {', '.join(found.names)} has another tokenizer than model_name_or_path={self.folder}, whose "
                "token ids would mean something else there; name the served model's folder, or server_prompts: text"
            )
        return found

    def rows(self, units: Iterable[range]) -> Iterator[list[dict[str, Any]]]:
        """Yield the answered prompts of each unit; random numbers are addressed by the place of an answer among all."""
        if self.parsed.servers.servers:
            yield from self._served_rows(list(units))
            return
        options, engine, count = self._options(), self._open_engine(), self.count
        for unit in units:
            samples = [self.samples[number] for number in unit]
            completions = engine.generate(
                [sample["input_ids"] for sample in samples for _ in range(count)],
                options,
                seed=self.given.seed,
                sequence_ids=[number * count + k for number in unit for k in range(count)],
            )
            groups = [completions[first : first + count] for first in range(0, len(completions), count)]
            yield [
                {"index": number, **_asked(sample), **self._answers(group)}
                for number, sample, group in zip(unit, samples, groups, strict=True)
            ]

    def _served_rows(self, units: Sequence[range]) -> Iterator[list[dict[str, Any]]]:
        as_text, encoder = self.parsed.servers.server_prompts == "text", self.voice.encoder

        def sent(number: int) -> list[int] | str:
            sample = self.samples[number]
            return encoder.encode_prompt(sample["raw_input"]).text if as_text else sample["input_ids"].tolist()

        groups = self.served.groups(ServedPrompt(number, sent(number)) for unit in units for number in unit)
        for unit in units:
            yield [{"index": number, **_asked(self.samples[number]), **next(groups)} for number in unit]

    def _answers(self, completions: Sequence[Completion]) -> dict[str, Any]:
        decode = self.voice.tokenizer.decode
        return {
            "responses": [decode(one.token_ids.tolist(), skip_special_tokens=True) for one in completions],
            "num_tokens": [len(one.token_ids) for one in completions],
            "logprobs": [float(one.logprobs.sum(dtype=np.float64)) for one in completions],
            "finish_reasons": [one.finish_reason for one in completions],
        }

    def _open_engine(self) -> Engine:
        given = self.given
        dtype = working_dtype(self.folder, select_device(given.device))
        model = load_causal_lm(self.folder, dtype=dtype, tokenizer=self.voice.tokenizer)
        longest = max(len(self.samples[number]["input_ids"]) for number in self.numbers)
        try:
            return open_engine(
                model,
                len(self.voice.tokenizer),
                dtype=dtype,
                kv_memory=given.rollout_kv_memory,
                num_slots=given.per_device_rollout_batch_size,
                max_length=longest + self.parsed.answers.max_dec_len,
            )
        except RuntimeError as error:
            raise UserError(
                f"{error}. Give a lower per_device_rollout_batch_size (now {given.per_device_rollout_batch_size}) or "
                "max_dec_len, or rollout_kv_memory"
            ) from error

    def _options(self) -> GenerationOptions:
        answers, known = self.parsed.answers, self.voice.config.vocab_size
        if answers.min_dec_len > answers.max_dec_len:
            raise ArgumentError(f"min_dec_len={answers.min_dec_len} is more than max_dec_len={answers.max_dec_len}")
        return GenerationOptions(
            max_new_tokens=answers.max_dec_len,
            min_new_tokens=answers.min_dec_len,
            do_sample=answers.do_sample,
            temperature=answers.temperature,
            top_p=answers.top_p,
            top_k=answers.top_k,
            repetition_penalty=answers.repetition_penalty,
            stop_token_ids=with_stop_tokens(self.voice.ends, answers.stop_token_ids, known=known, owner="model"),
        )


def _asked(sample: Any) -> dict[str, Any]:
    """Return the prompt as its row gave it, in the columns that datasets read."""
    raw = sample["raw_input"]
    asked = {"prompt": raw["messages"], "tools": raw["tools"]} if isinstance(raw, dict) else {"prompt": raw}
    return asked if sample["label"] is None else {**asked, "label": sample["label"]}
