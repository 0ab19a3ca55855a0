"""Handle parameters replicated within one replica: sum their gradients, and count each parameter once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping

import paddle

from alignment.architecture.parts import Part
from alignment.parallel.sharding import message_cuts
from alignment.parallel.sharding.buckets import make_buckets
from alignment.parallel.tensor.regions import sum_over_copies
from alignment.parallel.topology import Topology


class GradientCopies:
    """Sums gradients over the copies of a parameter; all processes of a replica must create and call this together."""

    def __init__(
        self,
        topology: Topology,
        parts: Mapping[str, Part],
        *,
        is_partial: Callable[[str], bool] | None,
        tied: Collection[str],
    ) -> None:
        """``parts`` are what this process holds under tensor and pipeline parallelism."""
        self._tensor, self._pipeline = topology.tensor, topology.pipeline
        self._tied = sorted(name for name in tied if name in parts) if topology.pipeline.size > 1 else []
        boxes = {name: part.box for name, part in parts.items()}
        shared = self._tensor.gather_objects(boxes, "parts")
        self._copies = {
            name: sum(other.get(name) == box for other in shared)
            for name, box in boxes.items()
            if is_partial is not None and is_partial(name)
        }
        others = topology.replica.gather_objects(boxes, "parts")[: topology.replica.index]
        counts = topology.data.is_first
        self.owned = {name for name, box in boxes.items() if counts and all(o.get(name) != box for o in others)}
        """The parameters that this process counts, so that every parameter of the model is counted once; its peers
        along ``sharding`` own the same names and each counts its own rows."""

    def complete(self, rows: dict[str, paddle.Tensor], parameters: Mapping[str, paddle.Tensor]) -> None:
        """Replace the gradients in ``rows`` by their sums over all copies; ``parameters`` are theirs by name."""
        groups: dict[int, dict[str, paddle.Tensor]] = defaultdict(dict)
        for name, copies in self._copies.items():
            if name in rows:
                groups[copies][name] = rows[name]
        for copies, found in sorted(groups.items()):
            for bucket in make_buckets(found, pieces=1):
                own = {name: found[name] for name in bucket.shapes}
                flat = bucket.pack(own, next(iter(own.values())).dtype)
                rows |= bucket.split(sum_over_copies(flat, self._tensor, copies=copies)[0], 0)
        for name in self._tied:
            if name in parameters:
                mine = rows[name] if name in rows else paddle.zeros_like(parameters[name])
                rows[name] = self._sum_ends(mine)

    def _sum_ends(self, gradient: paddle.Tensor) -> paddle.Tensor:
        """Return the sum over the first and last stage only, to spare the others a buffer of the embedding's size."""
        line, what = self._pipeline, "tied gradient"
        if line.is_first:
            line.send(gradient, line.size - 1, what)
            return line.receive(gradient.shape, gradient.dtype, line.size - 1, what)
        total = line.receive(gradient.shape, gradient.dtype, 0, what) + gradient
        line.send(total, 0, what)
        return total


@paddle.no_grad()
def sum_of_squares(tensors: Iterable[paddle.Tensor]) -> paddle.Tensor:
    """Return the sum of the squares of all elements as float64 [1]."""
    sums = [paddle.zeros([1], "float64")]
    for tensor in tensors:
        flat = tensor.reshape([-1])
        for start in range(0, flat.shape[0], message_cuts.SQUARED_AT_ONCE):
            sums.append(
                flat[start : start + message_cuts.SQUARED_AT_ONCE].astype("float64").square().sum().reshape([1])
            )
    return paddle.add_n(sums)
