"""Move weights from the layout that holds them to the layout that needs them, one bucket at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import paddle

from alignment.architecture import reshard_plan
from alignment.architecture.parts import inside
from alignment.architecture.reshard_plan import Message, ReshardPlan, Transfer
from alignment.parallel.topology import Topology


class Resharder:
    """Executes a reshard plan, any number of times. All processes create it from the same plan and run it together."""

    def __init__(
        self,
        plan: ReshardPlan,
        topology: Topology,
        *,
        dtypes: Mapping[str, str],
        bucket_bytes: int | None = None,
    ) -> None:
        """``dtypes`` gives the dtype of every tensor by name, the same in all processes.

        ``bucket_bytes`` limits the bytes in transit in this process at a time (None: ``reshard_plan.MESSAGE_BYTES``).
        """
        self.plan = plan
        self._world = topology.world
        self._rank = topology.rank
        self._dtypes = dtypes
        self._held = plan.sources[self._rank]
        self._wanted = plan.targets[self._rank]
        bucket_bytes = reshard_plan.MESSAGE_BYTES if bucket_bytes is None else bucket_bytes
        limit = max(1, bucket_bytes // max(map(bytes_per_element, set(dtypes.values())), default=1))
        # No deadlock: all processes go through the same list, each taking part in its own messages only, so both ends
        # of the first unfinished message are always waiting for it.
        self._rounds = [
            [message for message in bucket if self._rank in (message.source, message.target)]
            for bucket in plan.buckets(limit, dtypes)
        ]

    def stream(self, local: Mapping[str, paddle.Tensor]) -> Iterator[tuple[str, paddle.Tensor]]:
        """Yield (name, tensor) for each part this process wants, in plan order and bit-exact.

        ``local`` holds the parts it has. An unchanged part is yielded as the same tensor object. Every process must
        exhaust the iterator, even if it wants nothing: others wait for what it sends.
        """
        waiting = deque(self._wanted.items())
        # Elements of each wanted part not yet received.
        left = {name: 0 if self.plan.is_zero_copy(self._rank, name) else part.size for name, part in waiting}
        opened: dict[str, paddle.Tensor] = {}
        for messages in ([], *self._rounds):
            for message in messages:
                self._carry(message, local, opened)
                if message.target == self._rank:
                    for piece in message.pieces:
                        left[piece.name] -= piece.size
            while waiting and left[waiting[0][0]] == 0:
                name, _ = waiting.popleft()
                yield name, self._finish(name, local, opened)
        assert not waiting, f"not received: {[name for name, _ in waiting][:3]}"

    @paddle.no_grad()
    def _carry(self, message: Message, local: Mapping[str, paddle.Tensor], opened: dict[str, paddle.Tensor]) -> None:
        """Send or receive one message, or copy it if it stays in this process."""
        if message.source == message.target:
            for piece in message.pieces:
                self._put(piece, self._cut(piece, local), opened)
        elif message.source == self._rank:
            flat = [self._cut(piece, local).flatten() for piece in message.pieces]
            self._world.send(flat[0] if len(flat) == 1 else paddle.concat(flat), message.target, "weights")
        else:
            dtype = self._dtypes[message.pieces[0].name]
            flat = self._world.receive([message.size], dtype, message.source, "weights")
            position = 0
            for piece in message.pieces:
                self._put(piece, flat[position : position + piece.size], opened)
                position += piece.size

    def _cut(self, piece: Transfer, local: Mapping[str, paddle.Tensor]) -> paddle.Tensor:
        tensor, part, dtype = local[piece.name], self._held[piece.name], self._dtypes[piece.name]
        assert tuple(tensor.shape) == part.extent, f"{piece.name} is {tensor.shape}, its part says {part.extent}"
        assert dtype_name(tensor) == dtype, f"{piece.name} is {dtype_name(tensor)}, not {dtype}"
        return tensor[inside(piece.box, part.box)]

    def _put(self, piece: Transfer, values: paddle.Tensor, opened: dict[str, paddle.Tensor]) -> None:
        """Write ``piece`` into a wanted part, which is allocated with its first piece."""
        part = self._wanted[piece.name]
        if piece.box == part.box:
            opened[piece.name] = values.reshape(part.extent).clone()
            return
        target = self._open(piece.name, opened)
        target[inside(piece.box, part.box)] = values.reshape([stop - start for start, stop in piece.box])

    def _open(self, name: str, opened: dict[str, paddle.Tensor]) -> paddle.Tensor:
        if name not in opened:
            opened[name] = paddle.empty(self._wanted[name].extent, self._dtypes[name])
        return opened[name]

    def _finish(self, name: str, local: Mapping[str, paddle.Tensor], opened: dict[str, paddle.Tensor]) -> paddle.Tensor:
        if self.plan.is_zero_copy(self._rank, name):
            return local[name]
        self._open(name, opened)
        return opened.pop(name)


def dtype_name(tensor: paddle.Tensor) -> str:
    """Return the dtype's name, for example ``bfloat16``."""
    return str(tensor.dtype).rpartition(".")[2]


def bytes_per_element(dtype: str) -> int:
    """Return the size of one element in bytes."""
    return paddle.empty([0], dtype).element_size()
