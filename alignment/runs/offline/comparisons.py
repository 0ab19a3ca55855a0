"""Pairs in both orders: micro-batches, what is read from the model, and evaluation.

Legend: n pairs, 2n rows: all with the better answer first, then all with the worse one first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle

from alignment.algorithms.letter_preference import log_sigmoid, preference_logits
from alignment.data.encoded.comparisons import ORDERS
from alignment.loops.evaluation import Evaluation
from alignment.models.decoder.logprobs import alternative_logprobs
from alignment.parallel.runner import ModelRunner
from alignment.records import TokenBatch
from alignment.runs.offline.objective import EvaluationInputs
from alignment.runs.offline.pair_evaluation import NUM_SAMPLES, Rerendered, in_other_template
from alignment.telemetry import plots
from alignment.telemetry.report.readiness import JudgedPairs, OtherTemplate, Readiness, judge_pairs

Samples = Sequence[Mapping[str, Any]]


def comparison_batch(samples: Samples) -> TokenBatch:
    """Return n pairs as a micro-batch of 2n rows whose only target is the right letter; see ``read_letters``."""
    rows = [sample[f"{order}_input_ids"] for order in ORDERS for sample in samples]
    letters = np.array([ids[-1] for ids in rows], np.int64)
    fields = {
        "wrong_letters": np.roll(letters, len(samples)),
        "is_first": np.repeat(np.array([1, 0], np.float32), len(samples)),
    }
    return TokenBatch.build(rows, [np.array([len(ids) - 1]) for ids in rows], fields)


def read_letters(model: Any, batch: TokenBatch) -> paddle.Tensor:
    """Return the log-probs [2n, 2] of the right and the wrong letter of each row, with gradients."""
    return alternative_logprobs(model, batch, batch.fields["wrong_letters"])


class Verdicts(NamedTuple):
    """What a model says of n pairs."""

    logits: np.ndarray
    """[n] logit of the probability that the better answer is better, over both orders."""
    right: np.ndarray
    """[2, n] whether the right letter is ahead, in each order."""
    first_share: float
    """Mean probability of the answer shown first; 0.5 without position bias."""
    letter_mass: float
    """Mean probability of both letters together, among all tokens."""
    loss: float
    """Mean cross-entropy of the right letter."""


@dataclass(frozen=True, kw_only=True)
class ComparisonEvaluation:
    """Compares every held-out pair, and as many training pairs, in both orders."""

    runner: ModelRunner
    pairs: Samples
    training_pairs: Samples
    """The first training pairs, at most as many as held-out ones, to show overfitting."""
    rows_per_batch: int
    decode: Callable[[np.ndarray], str]
    output_dir: Path | None
    """Where the readiness and what its plot shows are written; None: by another process."""
    datasets: Sequence[str] = ()
    """The dataset of each pair; empty if unknown."""
    other_template: Rerendered | None = None
    """Some of the pairs rendered with another template; None: there are none."""

    @classmethod
    def of(cls, inputs: EvaluationInputs) -> ComparisonEvaluation:
        """Return the evaluation of a run."""
        launch, tokenizer = inputs.launch, inputs.tokenizer
        return cls(
            runner=inputs.runner,
            pairs=inputs.held_out,
            training_pairs=inputs.training,
            rows_per_batch=inputs.rows_per_batch,
            decode=lambda ids: tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True),
            output_dir=launch.output_dir if launch.topology.is_main else None,
            datasets=inputs.datasets,
            other_template=in_other_template(inputs, itemgetter("digest")),
        )

    @np.errstate(all="ignore")
    def __call__(self) -> Evaluation:
        """Return ``eval/`` metrics and sample pairs; write the readiness.

        The loop refuses metrics that are not finite, so numpy need not warn of them.
        """
        held = self._judge(self.pairs)
        metrics = {
            "eval/accuracy": _accuracy(held),
            "eval/train_accuracy": _accuracy(self._judge(self.training_pairs[: len(self.pairs)])),
            "eval/loss": held.loss,
            "eval/first_share": held.first_share,
            "eval/consistency": float((held.right[0] == held.right[1]).mean()),
            "eval/letter_mass": held.letter_mass,
        }
        readiness = self._readiness(held, metrics["eval/train_accuracy"])
        if self.output_dir is not None:
            plots.keep_scores(self.output_dir / plots.FOLDER, held.logits)
            readiness.save(self.output_dir)
        return metrics, self._rows(held)

    def _judge(self, pairs: Samples) -> Verdicts:
        size = max(1, self.rows_per_batch // 2)
        batches = [comparison_batch(pairs[i : i + size]) for i in range(0, len(pairs), size)]
        found = [np.asarray(part, np.float64).reshape(2, -1, 2) for part in self.runner.forward(batches, read_letters)]
        logprobs = np.concatenate(found, axis=1)
        ahead = logprobs[..., 0] - logprobs[..., 1]
        shares = np.exp(log_sigmoid(np.stack([ahead[0], -ahead[1]])))
        return Verdicts(
            logits=preference_logits(ahead[0], -ahead[1]),
            right=ahead > 0,
            first_share=float(shares.mean()),
            letter_mass=float(np.exp(logprobs).sum(-1).mean()),
            loss=float(-logprobs[..., 0].mean()),
        )

    def _readiness(self, held: Verdicts, train_accuracy: float) -> Readiness:
        other = None
        if self.other_template is not None:
            name, pairs, which = self.other_template
            rendered = self._judge(pairs).logits > 0
            other = OtherTemplate(name, as_they_are=held.logits[which] > 0, rendered=rendered)
        given = [pair["margin"] for pair in self.pairs]
        return judge_pairs(
            JudgedPairs(
                margins=held.logits,
                extra_length=np.array([pair["extra_length"] for pair in self.pairs]),
                subsets=self.datasets,
                given_margins=None if None in given else np.array(given),
                train_accuracy=train_accuracy,
                other_template=other,
                first_share=held.first_share,
            )
        )

    def _rows(self, held: Verdicts) -> list[dict[str, Any]]:
        """Return the question with the better answer first, and its probability of being better over both orders."""
        chances = np.exp(log_sigmoid(held.logits))
        return [
            {
                "prompt": self.decode(pair["better_first_input_ids"][:-1]),
                "response": self.decode(pair["better_first_input_ids"][-1:]),
                "score": float(chance),
            }
            for pair, chance in zip(self.pairs[:NUM_SAMPLES], chances, strict=False)
        ]


def _accuracy(judged: Verdicts) -> float:
    """Return the share of pairs whose better answer is more likely to be better over both orders; a tie is wrong."""
    return float((judged.logits > 0).mean())
