"""The loop of every trainer on a dataset: micro-batches, one update each, tokens counted over all of them."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np

from alignment.loops.supervised import SupervisedLoop, SupervisedTask
from alignment.metrics import Metric
from alignment.parallel.micro_batches import MicroBatches
from alignment.records import TokenBatch


def test_the_rows_of_an_update_are_cut_into_micro_batches_and_all_their_tokens_counted():
    done, counted, ends = [], [], []
    session = SimpleNamespace(stage=lambda name: nullcontext(), is_finished=False)
    session.timer = SimpleNamespace(count=lambda stage, tokens: counted.append((stage, tokens)))

    def advance(metrics, *, updates, epoch_ended):
        ends.append((metrics["loss"].value, updates, epoch_ended))
        session.is_finished = len(ends) == 2

    session.advance = advance
    learner = SimpleNamespace(
        accumulate=lambda batches, objective: done.append([b.num_rows for b in batches]) or [{"loss": Metric(2.0)}],
        apply=lambda: done.append("applied") or {},
    )
    runner = object()
    rows = [{"input_ids": np.arange(length)} for length in (2, 3, 4, 5, 6)]
    SupervisedLoop(
        samples=iter([(rows, False), (rows[:2], True), (rows, False)]),
        micro_batches=MicroBatches(rows=2),
        task=SupervisedTask(
            make_batch=lambda part: TokenBatch.build([row["input_ids"] for row in part], [np.array([1])] * len(part)),
            make_objective=lambda batches: done.append(f"{len(batches)} batches"),
            prepare=lambda batches, given: done.append("prepared" if given is runner else "other"),
            measure=lambda batches, given, order, learns: done.append(order if learns and given is runner else "other"),
            after_update=lambda given: done.append("after" if given is learner else "other"),
        ),
        learner=learner,
        runner=runner,
        session=session,
    ).run()
    then = ["applied", "after"]
    first, second = ["prepared", [0, 1, 2, 3, 4], "3 batches", [2, 2, 1]], ["prepared", [0, 1], "1 batches", [2]]
    assert done == [*first, *then, *second, *then]
    assert counted == [("update", 20), ("update", 5)]
    assert ends == [(2.0, 1, False), (2.0, 1, True)]
