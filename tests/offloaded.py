"""What an owner of offloaded tensors has in host memory."""

from __future__ import annotations

from alignment.device.offload import Offloaded


def bytes_away(owner: Offloaded) -> int:
    """Return the bytes that are in host memory now."""
    return sum(int(tensor.size) * tensor.element_size() for tensor, _ in owner._away)
