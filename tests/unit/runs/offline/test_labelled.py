"""Labelled answers: micro-batches, prompts with the answers of other rows, and what rewards count from."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from alignment.algorithms.preference.kto import KTO, KTOHyperparameters
from alignment.data.loader import BatchLoader
from alignment.errors import DataError
from alignment.parallel.micro_batches import MicroBatches
from alignment.runs.offline import labelled
from alignment.runs.offline.labelled import (
    baseline_of,
    check_labels,
    labelled_batch,
    mismatched,
    open_baseline,
    within_budget,
)
from alignment.telemetry import log


def sample(prompt, answer, label=1):
    return {"input_ids": np.array([*prompt, *answer]), "prompt_length": len(prompt), "desirable": label}


SAMPLES = [sample([1, 10], [20]), sample([1, 11, 12], [21, 22], 0), sample([1, 13], [23, 24, 25]), sample([1], [26], 0)]
PROMPTS, ANSWERS = [[1, 10], [1, 11, 12], [1, 13], [1]], [[20], [21, 22], [23, 24, 25], [26]]


def rows_of(batches):
    """Prompt and answer of every row."""
    found = []
    for batch in batches:
        for row, (ids, length) in enumerate(zip(batch.input_ids.tolist(), batch.lengths.tolist(), strict=True)):
            at = batch.target_positions[batch.target_rows == row].tolist()
            assert at == list(range(at[0], length)), "the answer, to its end"
            found.append((ids[: at[0]], ids[at[0] : length]))
    return found


def test_the_targets_are_the_answers():
    batch = labelled_batch(SAMPLES)
    assert rows_of([batch]) == list(zip(PROMPTS, ANSWERS, strict=True))
    assert batch.fields["desirable"].tolist() == [1, 0, 1, 0] and batch.fields["desirable"].dtype == np.float32


@pytest.mark.parametrize("cut", [(4,), (1, 3), (2, 2), (1, 1, 1, 1)])
def test_each_prompt_gets_the_answer_of_the_row_before_however_the_update_is_cut(cut):
    edges = np.cumsum((0, *cut))
    batches = [labelled_batch(SAMPLES[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    made = mismatched(batches, range(4), 64)
    assert [batch.num_rows for batch in made] == list(cut)
    assert rows_of(made) == list(zip(PROMPTS, [*ANSWERS[3:], *ANSWERS[:3]], strict=True))


def test_the_place_in_the_update_counts_not_that_in_a_micro_batch():
    order = [2, 0, 3, 1]
    made = mismatched([labelled_batch([SAMPLES[at] for at in order[:3]]), labelled_batch([SAMPLES[1]])], order, 64)
    before = [*ANSWERS[3:], *ANSWERS[:3]]
    assert rows_of(made) == [(PROMPTS[at], before[at]) for at in order]


def test_an_answer_to_the_same_prompt_is_passed_over():
    rows = [sample([1, 5], [20]), sample([1, 5], [21]), sample([1, 6], [22]), sample([1, 6], [23])]
    made = rows_of(mismatched([labelled_batch(rows)], range(4), 64))
    assert [answer for _, answer in made] == [[23], [23], [21], [21]]
    same = [sample([1, 5], [20 + n]) for n in range(3)]
    assert [answer for _, answer in rows_of(mismatched([labelled_batch(same)], range(3), 64))] == [[22], [20], [21]]


def test_prompts_that_are_all_equal_are_told_once(monkeypatch):
    told = []
    monkeypatch.setattr(log, "warn", told.append)
    labelled._warn_of_equal_prompts.cache_clear()
    same, other = [sample([1, 5], [20]), sample([1, 5], [21])], [sample([1, 5], [20]), sample([1, 6], [21])]
    for rows in (other, same, same):
        mismatched([labelled_batch(rows)], range(2), 64)
    assert len(told) == 1 and "all rows of an update have the same prompt" in told[0]


def test_an_answer_that_does_not_fit_loses_its_end():
    made = rows_of(mismatched([labelled_batch([sample([1, 2, 3], [9]), sample([4], [5, 6, 7])])], range(2), 4))
    assert made == [([1, 2, 3], [5]), ([4], [9])]


@pytest.mark.parametrize(
    ("budget", "sizes"), [(8, [7, 8]), (11, [7, 8]), (7, [4, 4, 7]), (3, [3, 4, 4, 4]), (None, [3, 12])]
)
def test_mismatched_rows_keep_the_token_budget(budget, sizes):
    """Rows of 3, 4, 4 and 4 tokens, cut as 3 and 12; one over the budget stands alone."""
    made = mismatched([labelled_batch(SAMPLES[:1]), labelled_batch(SAMPLES[1:])], range(4), 64)
    batches, places = within_budget(made, MicroBatches(rows=2, max_tokens=budget))
    assert sorted(int(batch.lengths.sum()) for batch in batches) == sizes
    rows = rows_of(batches)
    assert [rows[place] for place in places] == rows_of(made)


class _Policy:
    """Gives each row the sum of its answer tokens."""

    def forward(self, batches, read):
        return [np.array([sum(answer) for _, answer in rows_of([batch])], np.float32) for batch in batches]


@pytest.mark.parametrize(("loss_type", "expected"), [("kto", [38.25] * 4), ("vanilla", [32.5, 44.0, 32.5, 44.0])])
def test_the_baseline_is_a_mean_over_the_whole_update(loss_type, expected):
    """Over a reference of 2 the answers gain 18, 41, 70 and 24."""

    def reference(batches, policy):
        for batch in batches:
            batch.fields["reference"] = np.full(batch.num_rows, 2.0, np.float32)

    batches = [labelled_batch(SAMPLES[:1]), labelled_batch(SAMPLES[1:])]
    reference(batches, None)
    baseline = baseline_of(KTO.labels, KTOHyperparameters(loss_type=loss_type))
    for budget in (None, 5):
        cut = MicroBatches(rows=2, max_tokens=budget)
        measure = open_baseline(SimpleNamespace(read=None), baseline, reference, max_length=64, cut=cut)
        measure(batches, _Policy(), range(4), learns=True)
        assert np.concatenate([batch.fields["baseline"] for batch in batches]).tolist() == expected


class _Reference:
    """Gives each row ten times the sum of its answer tokens; remembers the rows of every pass."""

    def __init__(self):
        self.passes = []

    def __call__(self, batches, policy):
        for batch in batches:
            self.passes.append(rows_of([batch]))
            batch.fields["reference"] = np.array([10.0 * sum(answer) for _, answer in self.passes[-1]], np.float32)


def measured(*, shares, budget=None):
    batches, reference = [labelled_batch(SAMPLES[:1]), labelled_batch(SAMPLES[1:])], _Reference()
    baseline = baseline_of(KTO.labels, KTOHyperparameters())._replace(values=lambda gains, labels: gains)
    cut = MicroBatches(rows=2, max_tokens=budget)
    passes = {"cut": cut, "shares": shares}
    open_baseline(SimpleNamespace(read=None), baseline, reference, max_length=64, **passes)(
        batches, _Policy(), range(4), learns=True
    )
    return batches, reference.passes


@pytest.mark.parametrize("budget", [None, 8, 14])
@pytest.mark.parametrize("shares", [False, True])
def test_the_reference_reads_both_answers_of_a_prompt_in_one_pass_where_rows_share(shares, budget):
    batches, passes = measured(shares=shares, budget=budget)
    own = [np.float32(10 * sum(answer)) for answer in ANSWERS]
    assert np.concatenate([batch.fields["reference"] for batch in batches]).tolist() == own
    others = [sum(answer) for answer in [*ANSWERS[3:], *ANSWERS[:3]]]
    assert np.concatenate([batch.fields["baseline"] for batch in batches]).tolist() == [-9.0 * n for n in others]
    assert sum(map(len, passes)) == 8, "each row once"
    if budget is None:
        assert [len(rows) for rows in passes] == ([2, 2, 2, 2] if shares else [1, 3, 1, 3])
    if shares and budget != 8:  # of 8 tokens no pass holds both rows of the longest prompt
        apart = [prompt for prompt in PROMPTS if not any([p for p, _ in rows].count(prompt) == 2 for rows in passes)]
        assert apart == []


def test_a_negative_mean_is_zero():
    labels, gains = np.array([1.0, 1.0, 0.0], np.float32), np.array([-3.0, 1.0, 0.5], np.float32)
    assert KTO.labels.baseline(gains, labels, KTOHyperparameters()).tolist() == [0, 0, 0]
    vanilla = KTO.labels.baseline(gains, labels, KTOHyperparameters(loss_type="vanilla"))
    assert vanilla.tolist() == [0.5, 0.5, 0.0]
    alone = KTO.labels.baseline(gains[:2], labels[:2], KTOHyperparameters(loss_type="vanilla"))
    assert alone.tolist() == [0, 0], "no answer with the other label"
    assert baseline_of(KTO.labels, KTOHyperparameters(loss_type="apo_zero_unpaired")) is None


def check(rows, held_out=None, *, size=2, loss_type="kto", **options):
    loader = BatchLoader(rows, batch_size=size, seed=0, **options)
    baseline = baseline_of(KTO.labels, KTOHyperparameters(loss_type=loss_type))
    check_labels(rows, held_out, baseline=baseline, loader=loader)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (1, "desirable; KTO also needs undesirable answers (label false)"),
        (0, "undesirable; KTO also needs desirable answers (label true)"),
    ],
)
@pytest.mark.parametrize("loss_type", ["kto", "vanilla", "apo_zero_unpaired"])
def test_rows_of_one_label_are_refused(label, says, loss_type):
    with pytest.raises(DataError) as raised:
        check([sample([1], [2], label)] * 4, loss_type=loss_type)
    assert str(raised.value) == f"train_datasets: 4 rows, all of them {says}"


@pytest.mark.parametrize(
    ("count", "options", "is_refused"),
    [
        (4, {"size": 1}, True), (3, {"size": 2}, True), (3, {"size": 2, "drop_last": True}, False),
        (4, {"size": 2}, False), (4, {"size": 1, "loss_type": "vanilla"}, False),
        (4, {"size": 1, "loss_type": "apo_zero_unpaired"}, False), (5, {"size": 8}, False),
    ],
)  # fmt: skip
def test_an_update_of_one_row_has_no_other_answer(count, options, is_refused):
    rows = SAMPLES[:4] + SAMPLES[: count - 4] if count > 4 else SAMPLES[:count]
    if not is_refused:
        check(rows, **options)
        return
    with pytest.raises(DataError, match="change per_device_train_batch_size or gradient_acc") as raised:
        check(rows, **options)
    assert ("dataloader_drop_last" in str(raised.value)) == (options["size"] > 1)
    assert f"of {count} rows in updates of {options['size']} one update has a single row" in str(raised.value)


def test_an_evaluation_of_one_row_has_no_other_answer():
    with pytest.raises(DataError, match="eval_datasets: .*only one row to evaluate on .allowed: 2 or more"):
        check(SAMPLES, SAMPLES[:1])
    check(SAMPLES, SAMPLES[:1], loss_type="vanilla")


def test_the_labels_are_counted_in_the_log(monkeypatch):
    lines = []
    monkeypatch.setattr(log, "info", lines.append)
    check(SAMPLES)
    assert lines == ["2 desirable answers and 2 undesirable"]
