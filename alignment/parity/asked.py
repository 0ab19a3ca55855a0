"""The layouts in which an argument file is compared with one process: its own, or the basic ones if it has none."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from alignment.architecture.cuts import check_degrees
from alignment.architecture.decoder_config import DecoderConfig
from alignment.architecture.layout import Layout
from alignment.arguments.coerce import coerce
from alignment.arguments.roles.placement import read_placement
from alignment.errors import ArgumentError
from alignment.fields import NO_CONSTRAINT, Constraint
from alignment.parity.layouts import BASIC, LAYOUTS, num_batch_ranks, num_processes


class AskedLayout(NamedTuple):
    """A layout to compare."""

    name: str
    changes: Mapping[str, Any]
    """Its keys where they are not those of the file."""
    processes: int
    batch_ranks: int
    """Processes with rows of their own."""
    degrees: Layout
    layers: int
    """Layers that the small model needs so that each process has some."""


def asked_layouts(given: Mapping[str, Any], *, processes: int | None) -> list[AskedLayout]:
    """Return the layout of the file with the keys ``given``, or the basic ones if it asks for a single process.

    ``processes`` is the number to start; None: the product of the degrees, or the ranks of ``placement``.
    """
    degrees = [_degree(given, key) for key in ("tensor_parallel_degree", "pipeline_parallel_degree")]
    sharding = _degree(given, "sharding_parallel_degree") if given.get("sharding") else 1
    layers = 2 * degrees[1] * _degree(given, "virtual_pp_degree")
    if (placement := given.get("placement")) is not None:
        return [_placed(placement, degrees, layers, processes=processes)]
    started = processes or math.prod(degrees) * sharding
    if started == 1:
        return [_basic(name) for name in BASIC]
    layout = Layout(
        tensor=degrees[0],
        pipeline=degrees[1],
        sharding=sharding,
        data=max(1, started // (math.prod(degrees) * sharding)),
        sharding_stage=int((re.findall("[123]", str(given["sharding"])) or [1])[0]) if sharding > 1 else 0,
    )
    return [AskedLayout(str(layout), {}, started, started // math.prod(degrees), layout, layers)]


def _placed(placement: Any, degrees: list[int], layers: int, *, processes: int | None) -> AskedLayout:
    """Return the layout of ``placement``: the rows are those of the policy's ranks, which has degrees of its own."""
    text = placement if isinstance(placement, str) else json.dumps(placement)
    shares = read_placement(text)
    if "policy" not in shares:
        raise ArgumentError(f"placement={text} names no ranks of the policy")
    ranks = {rank for share in shares.values() for rank in share.ranks}
    own = shares["policy"].degrees
    tensor = own.get("tensor_parallel_degree", degrees[0])
    pipeline = own.get("pipeline_parallel_degree", degrees[1])
    rows, rest = divmod(len(shares["policy"].ranks), tensor * pipeline)
    if rest or not rows:
        raise ArgumentError(
            f"placement: the {len(shares['policy'].ranks)} rank(s) of the policy are no multiple of its degrees, "
            f"{tensor} * {pipeline}"
        )
    layout = Layout(tensor=tensor, pipeline=pipeline, data=rows)
    return AskedLayout(f"placed, policy {layout}", {}, processes or len(ranks), rows, layout, max(layers, 2 * pipeline))


def _basic(name: str) -> AskedLayout:
    changes = LAYOUTS[name]
    tensor, pipeline = (changes.get(key, 1) for key in ("tensor_parallel_degree", "pipeline_parallel_degree"))
    layout = Layout(tensor=tensor, pipeline=pipeline, data=num_batch_ranks(name))
    return AskedLayout(name, changes, num_processes(name), num_batch_ranks(name), layout, 2 * pipeline)


def refuse_tensor_degree(shape: Mapping[str, Any], degree: int) -> None:
    """Refuse, before any process starts, a degree that a model of ``shape`` cannot be split by."""
    if problems := tensor_problems(shape, degree):
        raise ArgumentError("; ".join(problems))


def tensor_problems(shape: Mapping[str, Any], degree: int) -> list[str]:
    """Return why a model of ``shape`` cannot be split by ``degree``."""
    sizes = {"vocab_size": degree * 2**20, "max_position_embeddings": 128}  # a vocabulary that divides, with all ids
    config = DecoderConfig.from_dict({**shape, **sizes}, place="the model")
    return list(check_degrees(config, Layout(tensor=degree)))


def read_value(
    given: Mapping[str, Any], key: str, default: Any, kind: Any, constraint: Constraint = NO_CONSTRAINT
) -> Any:
    """Return the value of ``key`` as ``kind``; an ArgumentError names the key."""
    try:
        return coerce(given.get(key, default), kind, constraint)
    except ValueError as error:
        raise ArgumentError(f"{key}: {error}") from None


def _degree(given: Mapping[str, Any], key: str) -> int:
    return max(1, read_value(given, key, 1, int, Constraint(maximum=1024)))
