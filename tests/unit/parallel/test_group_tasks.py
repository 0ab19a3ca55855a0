"""Operations of a transport that only queues them (NCCL) go on until their tasks have completed; gloo's are done."""

from __future__ import annotations

import time
from types import SimpleNamespace

import paddle
import paddle.distributed as dist
import pytest

from alignment.parallel.comms.group import Group, Link
from alignment.parallel.comms.guard import Guard
from alignment.parallel.comms.traffic import Traffic

OPERATIONS = {
    "all_reduce over ranks 0, 1 (x)": ("all_reduce", lambda group: group.sum_(paddle.ones([2]), "x")),
    "all_gather over ranks 0, 1 (x)": ("all_gather", lambda group: group.gather(paddle.ones([2]), "x")),
    "broadcast over ranks 0, 1 (x)": ("broadcast", lambda group: group.broadcast_(paddle.ones([2]), 0, "x")),
    "reduce_scatter over ranks 0, 1 (x)": ("reduce_scatter", lambda group: group.reduce_scatter(paddle.ones([2]), "x")),
    "reduce_scatter over ranks 0, 1 (later)": (
        "reduce_scatter",
        lambda group: group.start_reduce_scatter(paddle.ones([2]), "later"),
    ),
    "send to rank 1 (world (x))": ("send", lambda group: group.send(paddle.ones([2]), 1, "x")),
    "receive from rank 1 (world (x))": ("recv", lambda group: group.receive([2], "float32", 1, "x")),
}


def two_ranks(*, is_gloo: bool) -> tuple[Group, Guard]:
    guard = Guard("rank 0", limit=10.0)
    link = Link(is_gloo=is_gloo, pairs=None, guard=guard, traffic=Traffic())
    return Group("world", (0, 1), link=link), guard


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_queued_operation_is_watched_until_its_task_has_completed(operation, monkeypatch):
    function, call = OPERATIONS[operation]
    state = {"done": False}
    monkeypatch.setattr(dist, function, lambda *a, **k: SimpleNamespace(is_completed=lambda: state["done"]))
    group, guard = two_ranks(is_gloo=False)
    call(group)
    assert guard.watch.overdue(time.monotonic() + 11).startswith(f"rank 0: {operation} has not ended after 11.0 s")
    state["done"] = True
    assert guard.watch.overdue(time.monotonic() + 11) == ""


def test_an_operation_of_gloo_is_done_when_the_call_returns(monkeypatch):
    monkeypatch.setattr(dist, "all_reduce", lambda *a, **k: SimpleNamespace(is_completed=lambda: False))
    group, guard = two_ranks(is_gloo=True)
    group.sum_(paddle.ones([2]))
    assert guard.watch.overdue(time.monotonic() + 11) == ""
