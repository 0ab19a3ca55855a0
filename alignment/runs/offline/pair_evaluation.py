"""Evaluate how well a reward (or cost) model separates the two sides of held-out pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignment.errors import DataError
from alignment.loops.evaluation import Evaluation
from alignment.parallel.runner import ModelRunner
from alignment.runs.datasets import encode_options, open_dataset
from alignment.runs.offline.objective import EvaluationInputs
from alignment.runs.offline.pairs import PairKind, pair_batch, read_pair_ends
from alignment.telemetry import log, plots
from alignment.telemetry.report.readiness import JudgedPairs, OtherTemplate, Readiness, judge_pairs

NUM_SAMPLES = 50
NUM_IN_OTHER_TEMPLATE = 500
OTHER_PLAIN = "User: {}\nAssistant: "
"""For a plain template, if the tokenizer has none of its own."""


class Rerendered(NamedTuple):
    """Pairs rendered with another template."""

    name: str
    pairs: list[dict[str, Any]]
    which: list[int]
    """The places of the same pairs among the held-out ones."""


@dataclass(frozen=True, kw_only=True)
class PairEvaluation:
    """Scores every held-out pair and as many training pairs; metric names are those of the reference suite."""

    runner: ModelRunner
    kind: PairKind
    pairs: Sequence[dict[str, Any]]
    training_pairs: Sequence[dict[str, Any]]
    """The first training pairs, at most as many as held-out ones, to show overfitting."""
    rows_per_batch: int
    decode: Callable[[np.ndarray], str]
    plot_dir: Path | None
    """Folder of the plots; None: another process keeps what they show, and writes the readiness beside it."""
    datasets: Sequence[str] = ()
    """The dataset of each pair; empty if unknown."""
    other_template: Rerendered | None = None
    """Some of the pairs rendered with another template; None: there are none."""

    @classmethod
    def of(cls, inputs: EvaluationInputs, *, kind: PairKind) -> PairEvaluation:
        """Return the evaluation of a run on pairs of ``kind``."""
        launch, tokenizer = inputs.launch, inputs.tokenizer
        return cls(
            runner=inputs.runner,
            kind=kind,
            pairs=inputs.held_out,
            training_pairs=inputs.training,
            rows_per_batch=inputs.rows_per_batch,
            decode=lambda ids: tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True),
            plot_dir=launch.output_dir / plots.FOLDER if launch.topology.is_main else None,
            datasets=inputs.datasets,
            other_template=in_other_template(inputs, partial(answers_of, kind=kind, tokenizer=tokenizer)),
        )

    @np.errstate(all="ignore")
    def __call__(self) -> Evaluation:
        """Return ``eval/`` metrics and sample pairs; keep what the plots show.

        Scores may be NaN or infinite: the loop refuses metrics that are, so numpy need not warn of them.
        """
        first, second = self._scores(self.pairs)
        margins = self.kind.margin_sign * (first - second)
        everything = np.concatenate([first, second])
        metrics = {
            **self._summary("", first, second),
            "eval/loss": float(np.logaddexp(0, -margins).mean()),
            **self._by_side(first, second),
            **self._signs(first, second),
            **self._summary("train_", *self._scores(self.training_pairs[: len(self.pairs)])),
        }
        readiness = self._judge(margins, metrics["eval/train_accuracy"])
        if self.plot_dir is not None:
            self._keep(margins, everything, self.plot_dir)
            readiness.save(self.plot_dir.parent)
        return metrics, self._rows(first, second)

    def _judge(self, margins: np.ndarray, train_accuracy: float) -> Readiness:
        """Return whether the model should be trusted; scores the pairs of the other template, in all processes."""
        other = None
        if self.other_template is not None:
            name, pairs, which = self.other_template
            first, second = self._scores(pairs)
            rendered = self.kind.margin_sign * (first - second) > 0
            other = OtherTemplate(name, as_they_are=margins[which] > 0, rendered=rendered)
        lengths = [np.array([len(pair[f"{side}_input_ids"]) for pair in self.pairs]) for side in self.kind.sides]
        given = [pair["margin"] for pair in self.pairs if "margin" in pair]
        return judge_pairs(
            JudgedPairs(
                margins=margins,
                extra_length=lengths[0] - lengths[1],
                subsets=self.datasets,
                given_margins=np.array(given) if given else None,
                train_accuracy=train_accuracy,
                other_template=other,
            )
        )

    def _scores(self, pairs: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        size = max(1, self.rows_per_batch // 2)
        batches = [pair_batch(pairs[i : i + size], self.kind) for i in range(0, len(pairs), size)]
        ends = self.runner.forward(batches, read_pair_ends)
        halves = [(e[: len(e) // 2], e[len(e) // 2 :]) for e in ends]
        return np.concatenate([h[0] for h in halves]), np.concatenate([h[1] for h in halves])

    def _summary(self, split: str, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        """Return accuracy (a tie is wrong) and the moments of all scores of one split ("" or "train_")."""
        everything = np.concatenate([first, second])
        return {
            f"eval/{split}accuracy": float((self.kind.margin_sign * (first - second) > 0).mean()),
            f"eval/{split}rewards_mean": float(everything.mean()),
            f"eval/{split}rewards_std": float(everything.std()),
        }

    def _by_side(self, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        numbers = {}
        for side, scores in zip(self.kind.sides, (first, second), strict=True):
            numbers[f"eval/{side}_rewards_mean"] = float(scores.mean())
            numbers[f"eval/{side}_rewards_std"] = float(scores.std())
        return numbers

    def _signs(self, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
        """Return how often a cost has the right sign (negative for a safe answer); nothing for rewards."""
        if not self.kind.sign_fields:
            return {}
        signs = [np.array([pair[name] for pair in self.pairs]) for name in self.kind.sign_fields]
        right = [sign * scores < 0 for sign, scores in zip(signs, (first, second), strict=True)]
        return {"eval/sign_accuracy": float(np.mean(right))}

    def _keep(self, margins: np.ndarray, scores: np.ndarray, folder: Path) -> None:
        sides = [[len(p[f"{side}_input_ids"]) - p["prompt_length"] for p in self.pairs] for side in self.kind.sides]
        chosen = np.arange(len(scores)) < len(self.pairs)
        plots.keep_scores(folder, margins, scores=scores, lengths=np.concatenate(sides), chosen=chosen)

    def _rows(self, first: np.ndarray, second: np.ndarray) -> list[dict[str, Any]]:
        rows = []
        for pair, *scores in zip(self.pairs[:NUM_SAMPLES], first, second, strict=False):
            start = pair["prompt_length"]
            prompt = self.decode(pair[f"{self.kind.sides[0]}_input_ids"][:start])
            rows += [
                {
                    "prompt": prompt,
                    "response": self.decode(pair[f"{s}_input_ids"][start:]),
                    "score": float(v),
                    "side": s,
                }
                for s, v in zip(self.kind.sides, scores, strict=True)
            ]
        return rows


def in_other_template(inputs: EvaluationInputs, content: Callable[[dict[str, Any]], Any]) -> Rerendered | None:
    """Return the first held-out pairs as another template renders them; None, with a line in the log, if that cannot be
    done or they are no rows of ``eval_datasets``. All processes call it. ``content`` of a pair is the same in both.
    """
    launch, tokenizer = inputs.launch, inputs.tokenizer
    source = launch.parsed.offline.eval_datasets
    if not source:
        log.info("template sensitivity is not measured: the held-out rows are not those of eval_datasets")
        return None
    options = encode_options(launch, max_prompt_length=launch.parsed.data.max_prompt_len)
    other = "pku" if options.template == "tokenizer" or not tokenizer.chat_template else "tokenizer"
    other = OTHER_PLAIN if other == options.template else other
    options = replace(options, template=other, on_overlong="drop", on_bad_row="drop")
    try:
        rows = open_dataset(launch, inputs.objective.dataset, source, tokenizer, options, role="eval")
    except DataError as error:
        log.info(f"template sensitivity is not measured: {error}")
        return None
    found = [rows[i] for i in range(min(len(rows), NUM_IN_OTHER_TEMPLATE))]
    same = same_pairs(inputs.held_out[:NUM_IN_OTHER_TEMPLATE], found, content)
    if not same:
        log.info("template sensitivity is not measured: another template leaves no pair that can be compared")
        return None
    return Rerendered("none" if other == "pku" else other, [found[j] for _, j in same], [i for i, _ in same])


def same_pairs(
    first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]], content: Callable[[dict[str, Any]], Any]
) -> list[tuple[int, int]]:
    """Return the places in both lists of the pairs of the same ``content``, which are in the same order in both.

    A template makes rows longer or shorter, so each list may lack rows of the other.
    """
    blocks = SequenceMatcher(None, [*map(content, first)], [*map(content, second)], autojunk=False)
    return [(block.a + n, block.b + n) for block in blocks.get_matching_blocks() for n in range(block.size)]


def answers_of(pair: dict[str, Any], *, kind: PairKind, tokenizer: Any) -> tuple[str, ...]:
    """Return the text of both answers."""
    ids = (pair[f"{side}_input_ids"][pair["prompt_length"] :] for side in kind.sides)
    return tuple(tokenizer.decode(np.asarray(i).tolist(), skip_special_tokens=True).strip() for i in ids)
