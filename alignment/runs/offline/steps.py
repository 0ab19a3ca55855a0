"""Answers in steps: micro-batches, what is read from the model, and evaluation.

Legend: n answers with M steps together, S padded sequence length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from alignment.algorithms.process_rewards import process_loss
from alignment.loops.evaluation import Evaluation
from alignment.metrics import reduce_metrics
from alignment.models.decoder.step_scores import aggregate_steps
from alignment.parallel.runner import ModelRunner
from alignment.records import TokenBatch
from alignment.runs.offline.objective import EvaluationInputs
from alignment.runs.offline.pair_evaluation import NUM_SAMPLES, Rerendered, in_other_template
from alignment.runs.offline.pairs import NO_TARGETS
from alignment.telemetry.report.readiness import OtherTemplate, Readiness
from alignment.telemetry.report.readiness_steps import JudgedSteps, judge_steps, ranked_share
from alignment.training.objectives import fields_as_tensors

Samples = Sequence[Mapping[str, Any]]


def step_batch(samples: Sequence[Mapping[str, Any]]) -> TokenBatch:
    """Return n answers as a micro-batch with the fields ``step_labels`` and ``is_step`` [n, S]."""
    batch = TokenBatch.build([sample["input_ids"] for sample in samples], [NO_TARGETS] * len(samples))
    labels, is_step = (np.zeros(batch.input_ids.shape, np.float32) for _ in range(2))
    for row, sample in enumerate(samples):
        labels[row, sample["step_positions"]] = sample["step_labels"]
        is_step[row, sample["step_positions"]] = 1.0
    batch.fields.update({"step_labels": labels, "is_step": is_step})
    return batch


def read_step_scores(model: Any, batch: TokenBatch) -> paddle.Tensor:
    """Return the scores [n, S] of all tokens with gradients, as wide as the fields."""
    return model(batch)[:, : batch.fields["is_step"].shape[1]]


def count_steps(batches: Sequence[TokenBatch]) -> int:
    """Return the number of labels in all micro-batches of an update."""
    return sum(int(batch.fields["is_step"].sum()) for batch in batches)


@dataclass(frozen=True, kw_only=True)
class StepEvaluation:
    """Finds the steps of every held-out answer, and of as many training answers, good or bad."""

    runner: ModelRunner
    samples: Samples
    training: Samples
    """The first training answers, at most as many as held-out ones, to show overfitting."""
    rows_per_batch: int
    decode: Callable[[np.ndarray], str]
    aggregation: str
    """See ``aggregate_steps``."""
    output_dir: Path | None
    """Where the readiness is written; None: by another process."""
    datasets: Sequence[str] = ()
    """The dataset of each answer; empty if unknown."""
    other_template: Rerendered | None = None
    """Some of the answers rendered with another template; None: there are none."""

    @classmethod
    def of(cls, inputs: EvaluationInputs) -> StepEvaluation:
        """Return the evaluation of a run."""
        launch, tokenizer = inputs.launch, inputs.tokenizer

        def decode(ids: np.ndarray) -> str:
            return tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True)

        def content(sample: Mapping[str, Any]) -> tuple[Any, ...]:
            answer = decode(sample["input_ids"][sample["prompt_length"] :]).strip()
            return answer, *(float(label) for label in sample["step_labels"])

        return cls(
            runner=inputs.runner,
            samples=inputs.held_out,
            training=inputs.training,
            rows_per_batch=inputs.rows_per_batch,
            decode=decode,
            aggregation=launch.parsed.offline.step_aggregation,
            output_dir=launch.output_dir if launch.topology.is_main else None,
            datasets=inputs.datasets,
            other_template=in_other_template(inputs, content),
        )

    @np.errstate(all="ignore")
    def __call__(self) -> Evaluation:
        """Return the metrics of the loss, ``eval/train_accuracy`` and ``eval/answers_ranked`` (see ``ranked_share``),
        with sample rows; write the readiness.
        """
        batches, found = self._score(self.samples)
        metrics = _losses(batches, found)
        scores, good = _of_steps(self.samples, found, self.rows_per_batch)
        known = _right(self.training, self._score(self.training)[1], self.rows_per_batch)
        answers = self._aggregate(batches, found)
        metrics |= {"eval/train_accuracy": float(known.mean())} if len(known) else {}
        readiness, ranked = self._judge(scores, good, answers, train_accuracy=metrics.get("eval/train_accuracy"))
        if self.output_dir is not None:
            readiness.save(self.output_dir)
        metrics |= {} if ranked is None else {"eval/answers_ranked": ranked}
        return metrics, self._rows(answers)

    def _score(self, samples: Samples) -> tuple[list[TokenBatch], list[np.ndarray]]:
        """Return the micro-batches of ``samples`` and the scores [n, S] of all their tokens."""
        size = self.rows_per_batch
        batches = [step_batch(samples[i : i + size]) for i in range(0, len(samples), size)]
        return batches, self.runner.forward(batches, read_step_scores) if batches else []

    def _aggregate(self, batches: Sequence[TokenBatch], found: Sequence[np.ndarray]) -> np.ndarray:
        """Return the score [n] of each answer, as PPO gets it."""
        parts = [
            aggregate_steps(paddle.to_tensor(one), paddle.to_tensor(batch.fields["is_step"] > 0), self.aggregation)
            for one, batch in zip(found, batches, strict=True)
        ]
        return np.concatenate([part.numpy() for part in parts])

    def _judge(
        self, scores: np.ndarray, good: np.ndarray, answers: np.ndarray, *, train_accuracy: float | None
    ) -> tuple[Readiness, float | None]:
        """Return whether the model should be trusted, and ``ranked_share``; scores the answers of the other template,
        in all processes.
        """
        counts = [len(sample["step_labels"]) for sample in self.samples]
        other = None
        if self.other_template is not None:
            name, rows, which = self.other_template
            rendered = _right(rows, self._score(rows)[1], self.rows_per_batch)
            owners = np.repeat(np.arange(len(counts)), counts)
            right = (scores > 0) == good
            as_they_are = np.concatenate([right[owners == number] for number in which])
            other = OtherTemplate(name, as_they_are=as_they_are, rendered=rendered)
        steps = JudgedSteps(
            scores=scores,
            good=good,
            positions=np.concatenate([np.arange(1, count + 1) for count in counts]),
            answers=np.repeat(np.arange(len(counts)), counts),
            answer_scores=answers,
            lengths=np.array([len(s["input_ids"]) - s["prompt_length"] for s in self.samples], np.float64),
            subsets=self.datasets,
            train_accuracy=train_accuracy,
            other_template=other,
        )
        return judge_steps(steps), ranked_share(answers, steps.good_answers)

    def _rows(self, answers: np.ndarray) -> list[dict[str, Any]]:
        return [
            {
                "prompt": self.decode(sample["input_ids"][: sample["prompt_length"]]),
                "response": self.decode(sample["input_ids"][sample["prompt_length"] :]),
                "score": float(score),
                "labels": " ".join(f"{label:g}" for label in sample["step_labels"]),
            }
            for sample, score in zip(self.samples[:NUM_SAMPLES], answers, strict=False)
        ]


def _losses(batches: Sequence[TokenBatch], found: Sequence[np.ndarray]) -> dict[str, float]:
    """Return ``eval/loss`` and ``eval/accuracy`` of all steps."""
    options = {"hyperparameters": None, "denominator": count_steps(batches)}
    parts = [
        process_loss(paddle.to_tensor(scores), fields=fields_as_tensors(batch), **options).metrics
        for scores, batch in zip(found, batches, strict=True)
    ]
    return {f"eval/{key.removeprefix('process/')}": number for key, number in reduce_metrics(parts).items()}


def _of_steps(samples: Samples, found: Sequence[np.ndarray], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (scores, whether the label says good) [M] of the steps of ``samples``, scored ``size`` rows at a time."""
    scores = [found[i // size][i % size][sample["step_positions"]] for i, sample in enumerate(samples)]
    labels = [np.asarray(sample["step_labels"], np.float64) for sample in samples]
    empty = np.empty(0)
    return np.concatenate([empty, *scores]), np.concatenate([empty, *labels]) > 0.5


def _right(samples: Samples, found: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Return [M] bool, True: the step is found good or bad as its label says; see ``_of_steps``."""
    scores, good = _of_steps(samples, found, size)
    return (scores > 0) == good
