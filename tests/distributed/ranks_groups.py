"""What each rank does in ``test_groups.py``."""

import numpy as np
import paddle

from alignment.architecture.layout import Layout
from alignment.parallel.initialise import initialise


def exercise(layout: Layout) -> dict:
    top = initialise(device="cpu", seed=1, layout=layout)
    rank = top.rank
    out = {"place": top.place, "groups": {}}
    for group in (top.world, top.tensor, top.pipeline, top.sharding, top.data, top.batch, top.replica):
        mine = paddle.full([3], float(rank + 1))
        total = group.sum_(mine.clone())
        largest = group.max_(mine.clone())
        parts = group.gather(mine)
        split = group.reduce_scatter(paddle.arange(group.size * 2, dtype="float32").reshape([group.size, 2]))
        first = group.broadcast_(mine.clone(), group.size - 1)
        out["groups"][group.name] = {
            "ranks": group.ranks,
            "index": group.index,
            "sum": total.numpy(),
            "max": largest.numpy(),
            "gather": np.stack([p.numpy() for p in parts]),
            "scatter": split.numpy(),
            "broadcast": first.numpy(),
            "objects": group.gather_objects({"rank": rank}),
        }
    if top.world.size > 1:
        line = top.world
        if line.index > 0:
            got = line.receive([2], "float32", line.index - 1)
            out["received"] = got.numpy()
        if line.index < line.size - 1:
            line.send(paddle.full([2], float(rank)), line.index + 1)
    out["traffic"] = top.link.traffic.rows() if top.link else []
    return out
