"""Answers with attributes: micro-batches, what is read from the model, checks and evaluation.

Legend: n answers, k attributes, S padded sequence length. A missing value is None in a sample.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from alignment.errors import DataError
from alignment.loops.evaluation import Evaluation
from alignment.parallel.runner import ModelRunner
from alignment.records import TokenBatch
from alignment.runs.launch import Launch
from alignment.runs.offline.objective import EvaluationInputs
from alignment.runs.offline.pair_evaluation import Rerendered, in_other_template
from alignment.runs.offline.pairs import NO_TARGETS
from alignment.telemetry.report.readiness import Readiness
from alignment.telemetry.report.readiness_attributes import (
    JudgedAttribute,
    OtherCorrelation,
    judge_attributes,
    pearson_of_known,
)
from alignment.telemetry.wording import counted

NUM_SAMPLES = 50


def attribute_batch(samples: Sequence[Mapping[str, Any]]) -> TokenBatch:
    """Return n answers as a micro-batch with the fields ``attributes`` and ``known`` [n, k]."""
    values = _values(samples)
    fields = {"attributes": np.nan_to_num(values), "known": (~np.isnan(values)).astype(np.float32)}
    return TokenBatch.build([sample["input_ids"] for sample in samples], [NO_TARGETS] * len(samples), fields)


def read_attributes(model: Any, batch: TokenBatch) -> paddle.Tensor:
    """Return the predicted attributes [n, k] with gradients."""
    return model.read_end_scores(batch).reshape([batch.num_rows, -1])


def count_known(batches: Sequence[TokenBatch]) -> int:
    """Return the number of known values in all micro-batches of an update."""
    return sum(int(batch.fields["known"].sum()) for batch in batches)


def check_values(launch: Launch, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuse rows with another number of values than attributes, and attributes that are missing or constant in all."""
    source = launch.parsed.offline
    names, datasets = source.attributes, source.train_datasets
    for number, row in enumerate(rows):
        if len(row["attributes"]) != len(names):
            raise DataError(
                f"row {number} of {datasets} (rows left out are not counted) has {len(row['attributes'])} values, and "
                f"attributes names {len(names)}: {', '.join(names)}"
            )
    for name, values in zip(names, _values(list(rows)).T, strict=True):
        known = values[~np.isnan(values)]
        if not known.size or known.min() == known.max():
            said = f"is {known[0]:g}" if known.size else "has no value"
            raise DataError(
                f"attribute {name!r} {said} in all {counted(known.size or len(rows), 'row')} of {datasets}"
                f"{' that have a value' if 0 < known.size < len(rows) else ''}: nothing can be learned from it; leave "
                "it out of attributes"
            )


@dataclass(frozen=True, kw_only=True)
class AttributeEvaluation:
    """How well the attributes of held-out answers are predicted."""

    runner: ModelRunner
    samples: Sequence[Mapping[str, Any]]
    names: tuple[str, ...]
    rows_per_batch: int
    decode: Callable[[np.ndarray], str]
    output_dir: Path | None = None
    """Where the readiness is written; None: by another process."""
    training: Sequence[Mapping[str, Any]] = ()
    """The first training answers, at most as many as held-out ones, to show overfitting."""
    datasets: Sequence[str] = ()
    """The dataset of each answer; empty if unknown."""
    other_template: Rerendered | None = None
    """Some of the answers rendered with another template; None: there are none."""

    @classmethod
    def of(cls, inputs: EvaluationInputs) -> AttributeEvaluation:
        """Return the evaluation of a run."""
        tokenizer = inputs.tokenizer
        return cls(
            runner=inputs.runner,
            samples=inputs.held_out,
            names=inputs.launch.parsed.offline.attributes,
            rows_per_batch=inputs.rows_per_batch,
            output_dir=inputs.launch.output_dir if inputs.launch.topology.is_main else None,
            decode=lambda ids: tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True),
            training=inputs.training,
            datasets=inputs.datasets,
            other_template=in_other_template(inputs, partial(_content, tokenizer=tokenizer)),
        )

    @np.errstate(all="ignore")
    def __call__(self) -> Evaluation:
        """Return ``eval/loss`` (mean squared error), ``eval/pearson`` (mean over the attributes) and those of each
        attribute, with sample rows. An attribute that is constant in the held-out rows has no correlation.
        """
        found = self._predict(self.samples)
        true = _values(self.samples).astype(np.float64)
        metrics = {"eval/loss": float(np.nanmean((found - true) ** 2))}
        correlations = {}
        words = [re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_") for name in self.names]
        for name, predicted, given in zip(words, found.T, true.T, strict=True):
            known = ~np.isnan(given)
            if known.any():
                metrics[f"eval/mse/{name}"] = float(((predicted - given)[known] ** 2).mean())
            correlation = pearson_of_known(predicted, given)
            if correlation is not None:
                correlations[f"eval/pearson/{name}"] = correlation
        readiness = self._judge(found, true)
        if self.output_dir is not None:
            readiness.save(self.output_dir)
        metrics["eval/pearson"] = float(np.mean(list(correlations.values()))) if correlations else 0.0
        return metrics | correlations, self._rows(found)

    def _predict(self, samples: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Return the predicted attributes [n, k] float64."""
        size = self.rows_per_batch
        batches = [attribute_batch(samples[i : i + size]) for i in range(0, len(samples), size)]
        found = self.runner.forward(batches, read_attributes) if batches else [np.empty((0, len(self.names)))]
        return np.concatenate(found).astype(np.float64)

    def _judge(self, found: np.ndarray, true: np.ndarray) -> Readiness:
        """Return whether the model should be trusted; predicts training answers and those of the other template, in all
        processes.
        """
        lengths = np.array([(sample["labels"] != -100).sum() for sample in self.samples], np.float64)
        training = _values(self.training).astype(np.float64) if self.training else np.empty((0, len(self.names)))
        trained = self._predict(self.training)
        other = self.other_template
        rendered = None if other is None else self._predict(other.pairs)

        def in_other(index: int) -> OtherCorrelation | None:
            if other is None or rendered is None:
                return None
            given = true[other.which, index]
            both = (pearson_of_known(part[:, index], given) for part in (found[other.which], rendered))
            return OtherCorrelation(other.name, *both)

        return judge_attributes(
            [
                JudgedAttribute(
                    name=name,
                    predicted=found[:, index],
                    given=true[:, index],
                    lengths=lengths,
                    subsets=self.datasets,
                    train_correlation=pearson_of_known(trained[:, index], training[:, index]),
                    other_template=in_other(index),
                )
                for index, name in enumerate(self.names)
            ]
        )

    def _rows(self, found: np.ndarray) -> list[dict[str, Any]]:
        rows = []
        for sample, predicted in zip(self.samples[:NUM_SAMPLES], found, strict=False):
            start = int((sample["labels"] == -100).argmin())
            rows.append(
                {
                    "prompt": self.decode(sample["input_ids"][:start]),
                    "response": self.decode(sample["input_ids"][start:]),
                    "score": float(predicted.mean()),
                    **{name: float(value) for name, value in zip(self.names, predicted, strict=True)},
                    **{f"true {name}": value for name, value in zip(self.names, sample["attributes"], strict=True)},
                }
            )
        return rows


def _content(sample: Mapping[str, Any], *, tokenizer: Any) -> tuple[str, tuple[Any, ...]]:
    """Return the text of an answer and its attributes, which are the same in every template."""
    ids = sample["input_ids"][sample["labels"] != -100]
    return tokenizer.decode(ids.tolist(), skip_special_tokens=True).strip(), tuple(sample["attributes"])


def _values(samples: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Return the values [n, k] float32, NaN where one is missing."""
    rows = [[np.nan if value is None else value for value in sample["attributes"]] for sample in samples]
    return np.array(rows, np.float32)
