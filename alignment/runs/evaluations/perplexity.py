"""The perplexity of a model on rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from alignment.data.encode import EncodeOptions
from alignment.data.encoded.supervised import SupervisedDataset
from alignment.data.raw.dataset_spec import parse_datasets
from alignment.data.raw.modules import load_dataset_modules
from alignment.data.templates import template_name
from alignment.errors import ArgumentError, DataError
from alignment.evaluation.perplexity import RowWindow, perplexity, windows
from alignment.models.decoder.logprobs import graded_logprobs
from alignment.models.folders.hub import load_causal_lm, resolve_model_folder, working_dtype
from alignment.parallel.build_runner import build_runner
from alignment.parallel.topology import Topology
from alignment.records import TokenBatch
from alignment.runs.evaluations.answers import short_name
from alignment.runs.evaluations.summary import Sample, Summary, both_ends
from alignment.runs.evaluations.work import EvalWork
from alignment.runs.frozen import frozen_model
from alignment.runs.launch import prepare_device
from alignment.runs.stages.policy import Voice
from alignment.runs.stages.stage import ALONE, cut
from alignment.training.objectives import IGNORED_LABEL

_ROWS_OF_A_UNIT = 32
_ANY_LENGTH = 1 << 40
_SHOWN = 600
"""Characters of a row on the page."""


@dataclass
class PerplexityWork(EvalWork):
    """Sums of the log-probs of rows; see ``stage.Work``."""

    @cached_property
    def folder(self) -> Path:
        """The folder of the model."""
        return resolve_model_folder(self.parsed.options.model_name_or_path, parts=("policy",))

    @cached_property
    def voice(self) -> Voice:
        """Its tokenizer and template."""
        options = self.parsed.options
        return Voice(self.folder, options.wanted_template, options.tokenizer_chat_template)

    @cached_property
    def longest(self) -> int:
        """Tokens that are read at once."""
        positions, wanted = self.voice.config.longest_sequence, self.parsed.options.max_length
        if wanted is not None and wanted > positions:
            raise ArgumentError(f"max_length={wanted} is more than the model's {positions} positions")
        return wanted or positions

    @property
    def stride(self) -> int:
        """Tokens between the starts of windows."""
        stride = self.parsed.options.stride
        if stride is not None and stride >= self.longest:
            raise ArgumentError(
                f"stride={stride} must be less than the {self.longest} tokens of a window (allowed: 1 to "
                f"{self.longest - 1}), or the tokens at the start of a window have nothing before them"
            )
        return stride or max(1, self.longest // 2)

    @cached_property
    def samples(self) -> SupervisedDataset:
        """All rows that are used."""
        options, base = self.parsed.options, self.parsed.base_dir
        load_dataset_modules(options.dataset_modules, base)
        names = ("input_key", "output_key", "messages_key")
        columns = {name: getattr(options, name) for name in names if getattr(options, name)}
        encode = EncodeOptions(
            max_length=_ANY_LENGTH if options.on_overlong == "window" else self.longest,
            on_overlong="error" if options.on_overlong == "error" else "drop",
            on_bad_row=options.on_bad_row,
            template=template_name(self.voice.template_name),
            targets=options.loss_on,
        )
        defaults = {"split": options.split or "train", **columns}
        specs = parse_datasets(options.eval_datasets, base_dir=base, defaults=defaults)
        return SupervisedDataset(specs, self.voice.tokenizer, options=encode, seed=42)

    @property
    def units(self) -> list[range]:
        """See ``stage.Work``."""
        return cut(range(len(self.samples)), _ROWS_OF_A_UNIT)

    def check(self) -> None:
        """Refuse what cannot be measured before work starts."""
        _ = self.stride, self.samples

    def inputs(self) -> dict[str, Any]:
        """Return the contents of model and rows."""
        digest = hashlib.sha256()
        for sample in self.samples:
            digest.update(repr((sample["input_ids"].tolist(), sample["labels"].tolist())).encode())
        return {"model": frozen_model("the model", str(self.folder), ALONE).content, "rows": digest.hexdigest()}

    def rows(self, units: Iterable[range]) -> Iterator[list[dict[str, Any]]]:
        """Yield for each row of each unit the sum of its losses and its number of counted tokens."""
        device = prepare_device(self.given.device)
        model = load_causal_lm(self.folder, dtype=working_dtype(self.folder, device), tokenizer=self.voice.tokenizer)
        model.eval()
        runner = build_runner(model, Topology(device=device))
        for unit in units:
            parts = [(number, part) for number in unit for part in self._windows(number)]
            size = self.parsed.options.per_device_eval_batch_size
            batches = [self._batch(parts[first : first + size]) for first in range(0, len(parts), size)]
            found = runner.forward(batches, graded_logprobs) if batches else []
            yield self._measured(unit, parts, batches, found)

    def _windows(self, number: int) -> list[RowWindow]:
        """Return the windows of a row that hold a counted token."""
        labels = self.samples[number]["labels"]
        found = windows(len(labels), longest=self.longest, stride=self.stride)
        return [part for part in found if len(_targets(labels, part))]

    def _batch(self, parts: Sequence[tuple[int, RowWindow]]) -> TokenBatch:
        samples = [self.samples[number] for number, _ in parts]
        ids = [sample["input_ids"][part.start : part.end] for sample, (_, part) in zip(samples, parts, strict=True)]
        targets = [_targets(sample["labels"], part) for sample, (_, part) in zip(samples, parts, strict=True)]
        return TokenBatch.build(ids, targets)

    def _measured(self, unit: range, parts: Sequence[Any], batches: Sequence[Any], found: Any) -> list[dict[str, Any]]:
        sums = {number: np.zeros(3) for number in unit}  # loss, hits, tokens
        owners = np.array([number for number, _ in parts], np.int64)
        first = 0
        for batch, (logprobs, hits) in zip(batches, found, strict=True):
            rows = owners[first : first + len(batch.input_ids)][batch.target_rows]
            first += len(batch.input_ids)
            for row, logprob, hit in zip(rows.tolist(), logprobs.tolist(), hits.tolist(), strict=True):
                sums[row] += (-logprob, hit, 1)
        return [self._row(number, sums[number], [part for owner, part in parts if owner == number]) for number in unit]

    def _row(self, number: int, sums: np.ndarray, parts: Sequence[RowWindow]) -> dict[str, Any]:
        ids = self.samples[number]["input_ids"]
        text = self.voice.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        return {
            "index": number,
            "loss": float(sums[0]),
            "num_tokens": int(sums[2]),
            "num_likeliest": int(sums[1]),
            "is_windowed": len(ids) > self.longest,
            "text": text[:_SHOWN],
        }

    def summarize(self, rows: Iterable[Mapping[str, Any]]) -> Summary:
        """Return perplexities and accuracy of all rows."""
        every = [*rows]
        used = [row for row in every if row["num_tokens"]]
        if not used:
            raise DataError("no row has a token to count: the first token of a row has nothing before it")
        found = perplexity([r["loss"] for r in used], [r["num_tokens"] for r in used], self.given.confidence)
        num_tokens = sum(row["num_tokens"] for row in used)
        ranked = sorted(used, key=lambda row: row["loss"] / row["num_tokens"])
        return Summary(
            title=f"Perplexity of {short_name(str(self.folder))}",
            metrics={
                "perplexity": found.of_tokens,
                "perplexity_of_rows": found.of_rows,
                "loss": found.loss,
                "accuracy": sum(row["num_likeliest"] for row in used) / num_tokens,
                "tokens": num_tokens,
            },
            notes=[
                "perplexity: exp of the mean loss of all counted tokens; perplexity_of_rows: the mean over rows; "
                "accuracy: share of tokens that the model finds likeliest. Intervals: bootstrap over rows."
            ],
            samples=[_sample(row) for row in both_ends(ranked, self.given.num_samples)],
            counts={
                "read_in_windows": sum(row["is_windowed"] for row in used),
                "without_counted_token": len(every) - len(used),
            },
            ledgers={"evaluation": self.samples.ledger.as_dict()},
        )


def _targets(labels: np.ndarray, part: RowWindow) -> np.ndarray:
    """Return the positions in the window of the tokens it counts."""
    counted = np.flatnonzero(labels[part.first : part.end] != IGNORED_LABEL)
    return counted + part.first - part.start


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(f"row {row['index']}", [(f"loss {row['loss'] / row['num_tokens']:.3f} a token", row["text"])])
