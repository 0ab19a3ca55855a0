"""Make micro-batches of labelled answers, and measure the gain from which their rewards count.

Legend: n rows of a micro-batch, N rows of an update.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from alignment.algorithms.preference.spec import BaselineRows, LabelledAnswers
from alignment.data.encoded.tokenized import Sample
from alignment.data.loader import BatchLoader
from alignment.errors import DataError
from alignment.loops.shared_prompts import prompt_families
from alignment.loops.supervised import Measure
from alignment.parallel.micro_batches import MicroBatches
from alignment.parallel.runner import ModelRunner
from alignment.records import TokenBatch
from alignment.runs.offline.joined import NOT_JOINED, Joining, forward_joined
from alignment.runs.offline.objective import OfflineObjective
from alignment.runs.offline.reference import FIELD, Prepare
from alignment.telemetry import log
from alignment.telemetry.wording import counted

LABEL, BASELINE = "desirable", "baseline"
"""Batch fields, [n] float32 each."""


class Baseline(NamedTuple):
    """A number per row that the loss holds fixed, measured on a whole update before it."""

    rows: BaselineRows
    values: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """From gains [N] and labels [N] to the field ``baseline`` [N]."""


def baseline_of(labels: LabelledAnswers, hyperparameters: Any) -> Baseline | None:
    """Return the baseline of an algorithm with these hyperparameters, if it has one."""
    rows = labels.baseline_rows(hyperparameters)
    if rows is None:
        return None
    return Baseline(rows, lambda gains, desirable: labels.baseline(gains, desirable, hyperparameters))


def labelled_batch(samples: Sequence[Mapping[str, Any]]) -> TokenBatch:
    """Return n samples of an UnpairedPreferenceDataset as a micro-batch; the targets are the answer tokens."""
    sequences = [sample["input_ids"] for sample in samples]
    targets = [np.arange(sample["prompt_length"], len(sample["input_ids"])) for sample in samples]
    labels = np.array([sample[LABEL] for sample in samples], np.float32)
    return TokenBatch.build(sequences, targets, {LABEL: labels})


def check_labels(
    rows: Sequence[Sample], held_out: Sequence[Sample] | None, *, baseline: Baseline | None, loader: BatchLoader
) -> None:
    """Refuse training rows of one label, and updates or evaluations without mismatched rows if ``baseline`` needs them.

    ``rows`` may be empty: nothing is trained.
    """
    desirable = sum(int(row[LABEL]) for row in rows)
    if rows and desirable in (0, len(rows)):
        has, lacks = ("desirable", "undesirable") if desirable else ("undesirable", "desirable")
        raise DataError(
            f"train_datasets: {counted(len(rows), 'row')}, all of them {has}; KTO also needs {lacks} answers "
            f"(label {str(not desirable).lower()})"
        )
    if rows:
        log.info(f"{counted(desirable, 'desirable answer')} and {len(rows) - desirable} undesirable")
    if baseline is None or baseline.rows != "mismatched":
        return
    cause = "loss_type=kto takes the answer of another row of the same update for each prompt"
    if rows and loader.smallest_batch == 1:
        raise DataError(
            f"{cause}, but of {len(rows)} rows in updates of {loader.batch_size} one update has a single row: change "
            "per_device_train_batch_size or gradient_accumulation_steps"
            + ", or set dataloader_drop_last"
            * (loader.batch_size > 1)
        )
    if held_out is not None and len(held_out) == 1:
        raise DataError(f"eval_datasets: {cause}, but there is only one row to evaluate on (allowed: 2 or more)")


def mismatched(batches: Sequence[TokenBatch], order: Sequence[int], max_length: int) -> list[TokenBatch]:
    """Return the prompts of all ``batches``, in the same micro-batches, each with the answer of another row.

    ``order`` [N]: the place of each row in the update. A prompt gets the answer of the row before it in the update (the
    first one that of the last) whose prompt is another; where all prompts are equal, of the row just before it. An
    answer that does not fit into ``max_length`` loses its end.
    """
    rows = _rows(batches)
    update = [rows[at] for at in np.argsort(order)]
    if len({row.prompt.tobytes() for row in rows}) == 1:
        _warn_of_equal_prompts()
    others = [_other(update, at) for at in order]
    pairs = zip(rows, others, strict=True)
    made = [_Row(row.prompt, other.answer[: max_length - len(row.prompt)]) for row, other in pairs]
    edges = np.cumsum([0, *(batch.num_rows for batch in batches)])
    return [_batch_of(made[start:stop]) for start, stop in pairwise(edges)]


def within_budget(
    batches: Sequence[TokenBatch], cut: MicroBatches, *, shares: bool = False
) -> tuple[Sequence[TokenBatch], np.ndarray]:
    """Return the rows of ``batches`` cut to the token budget, and the place [N] of each of them in the new order.

    A row that is over the budget has a micro-batch to itself. Without a budget nothing changes.
    ``shares``: rows share the tokens they begin with.
    """
    if cut.max_tokens is None:
        return batches, np.arange(sum(batch.num_rows for batch in batches))
    rows = _rows(batches)
    groups = _divide(rows, cut, shares=shares)
    return [_batch_of([rows[at] for at in group]) for group in groups], np.argsort(np.concatenate(groups))


def open_baseline(
    objective: OfflineObjective,
    baseline: Baseline,
    reference: Prepare,
    *,
    max_length: int,
    cut: MicroBatches,
    joining: Joining = NOT_JOINED,
    shares: bool = False,
) -> Measure:
    """Return a function that adds the field ``baseline`` to all micro-batches of an update.

    ``reference`` adds the reference's numbers to micro-batches; those of the update have them already unless the
    baseline is of mismatched rows. ``shares``: rows share the tokens they begin with; those with the same prompt are in
    the same passes of the reference. ``cut``: how
    updates are divided, whose token budget mismatched rows keep too; ``joining``: how its passes join micro-batches.
    """

    def measure(batches: Sequence[TokenBatch], policy: ModelRunner, order: Sequence[int], *, learns: bool) -> None:
        rows, places = batches, np.arange(len(order))
        if baseline.rows == "mismatched":
            others = mismatched(batches, order, max_length)
            largest = max(joining.rows, *(batch.num_rows for batch in batches))
            both, among = _together(batches, others, cut, shares=shares and largest > 1)
            reference(both, policy)
            _fill([*batches, *others], _field(both)[among], FIELD)
            rows, places = within_budget(others, cut, shares=shares)
            _fill(rows, _field(others)[np.argsort(places)], FIELD)
        logps = forward_joined(policy, rows, objective.read, joining)
        gains = [logp - row.fields[FIELD] for logp, row in zip(logps, rows, strict=True)]
        labels = [batch.fields[LABEL] for batch in batches]
        _fill(batches, baseline.values(np.concatenate(gains)[places], np.concatenate(labels)), BASELINE)

    return measure


def _together(
    batches: Sequence[TokenBatch], others: Sequence[TokenBatch], cut: MicroBatches, *, shares: bool
) -> tuple[list[TokenBatch], np.ndarray]:
    """Return the rows of ``batches`` and of ``others`` in micro-batches, and the place [2N] of each of them there.

    ``shares``: those with the same prompt are in the same one, as far as a budget allows.
    """
    rows = _rows([*batches, *others])
    if cut.max_tokens is not None:
        groups = _divide(rows, cut, shares=shares)
    else:
        groups = _pair_up(batches) if shares else _consecutive([*batches, *others])
    return [_batch_of([rows[at] for at in group]) for group in groups], np.argsort(np.concatenate(groups))


def _consecutive(batches: Sequence[TokenBatch]) -> list[Sequence[int]]:
    """Return the numbers of the rows of each of ``batches``."""
    return [range(*edge) for edge in pairwise(np.cumsum([0, *(batch.num_rows for batch in batches)]).tolist())]


def _pair_up(batches: Sequence[TokenBatch]) -> list[Sequence[int]]:
    """Return the numbers of rows of ``batches`` (N rows) with N more for each, in micro-batches not larger than these
    where they have two rows or more.
    """
    at_once = max(1, max(batch.num_rows for batch in batches) // 2)
    count = sum(batch.num_rows for batch in batches)
    pieces = [rows[i : i + at_once] for rows in _consecutive(batches) for i in range(0, len(rows), at_once)]
    return [[*piece, *(row + count for row in piece)] for piece in pieces]


def _fill(batches: Sequence[TokenBatch], numbers: np.ndarray, field: str) -> None:
    """Give each row of ``batches`` its number of ``numbers`` [rows] in the field ``field``."""
    edges = np.cumsum([batch.num_rows for batch in batches])[:-1]
    for batch, part in zip(batches, np.split(numbers, edges), strict=True):
        batch.fields[field] = part


def _field(batches: Sequence[TokenBatch]) -> np.ndarray:
    """Return the reference's numbers of all rows of ``batches``."""
    return np.concatenate([batch.fields[FIELD] for batch in batches])


def _divide(rows: Sequence[_Row], cut: MicroBatches, *, shares: bool) -> list[list[int]]:
    """Return the numbers of ``rows`` in each micro-batch within the budget of ``cut``."""
    lengths = [[len(row.prompt) + len(row.answer)] for row in rows]
    families = prompt_families([row.prompt for row in rows], lengths) if shares else None
    return cut.divide([min(length, cut.max_tokens) for (length,) in lengths], families)


class _Row(NamedTuple):
    prompt: np.ndarray
    answer: np.ndarray


def _rows(batches: Iterable[TokenBatch]) -> list[_Row]:
    found = []
    for batch in batches:
        counts = np.bincount(batch.target_rows, minlength=batch.num_rows)
        for ids, length, count in zip(batch.input_ids, batch.lengths, counts, strict=True):
            found.append(_Row(ids[: length - count], ids[length - count : length]))
    return found


def _batch_of(rows: Sequence[_Row]) -> TokenBatch:
    targets = [np.arange(len(row.prompt), len(row.prompt) + len(row.answer)) for row in rows]
    return TokenBatch.build([np.concatenate(row) for row in rows], targets)


@cache
def _warn_of_equal_prompts() -> None:
    log.warn(
        "all rows of an update have the same prompt, so the KL of its baseline is not that of mismatched pairs: each "
        "prompt gets another answer to itself. Shuffle the rows, or give larger updates (told once)"
    )


def _other(rows: Sequence[_Row], at: int) -> _Row:
    """Return the row whose answer goes with the prompt of row ``at``."""
    for back in range(1, len(rows)):
        row = rows[at - back]
        if not np.array_equal(row.prompt, rows[at].prompt):
            return row
    return rows[at - 1]
