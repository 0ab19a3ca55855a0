"""Operations of a transport that only queues them (NCCL) go on until their tasks have completed; gloo's are done."""

from __future__ import annotations

import threading
import time

import paddle
import paddle.distributed as dist
import pytest
from paddle.base import core

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


class FakeTask:
    def __init__(self, is_completed) -> None:
        self.is_completed = is_completed

    def wait(self) -> None:
        pass


def test_a_task_is_asked_on_the_gpu_of_its_process(monkeypatch):
    """By the watch's thread, which would else open a context on the first one."""
    asked = []
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:3")
    monkeypatch.setattr(core, "set_cuda_current_device_id", asked.append, raising=False)
    monkeypatch.setattr(dist, "all_reduce", lambda *a, **k: FakeTask(lambda: asked.append("done?") or len(asked) > 2))
    group, guard = two_ranks(is_gloo=False)
    group._reduce(paddle.to_tensor([1.0, 2.0], place="cpu"), dist.ReduceOp.SUM, "x")
    thread = threading.Thread(target=guard.watch.overdue, args=(time.monotonic(),))
    thread.start()
    thread.join()
    assert asked == [3, "done?"] * 2


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_queued_operation_is_watched_until_its_task_has_completed(operation, monkeypatch):
    function, call = OPERATIONS[operation]
    state = {"done": False}
    monkeypatch.setattr(dist, function, lambda *a, **k: FakeTask(lambda: state["done"]))
    group, guard = two_ranks(is_gloo=False)
    call(group)
    assert guard.watch.overdue(time.monotonic() + 11).startswith(f"rank 0: {operation} has not ended after 11.0 s")
    state["done"] = True
    assert guard.watch.overdue(time.monotonic() + 11) == ""


def test_an_operation_of_gloo_is_done_when_the_call_returns(monkeypatch):
    monkeypatch.setattr(dist, "all_reduce", lambda *a, **k: FakeTask(lambda: False))
    group, guard = two_ranks(is_gloo=True)
    group.sum_(paddle.ones([2]))
    assert guard.watch.overdue(time.monotonic() + 11) == ""
