"""Oracle records by key, and the two precisions every record is checked in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
import pytest

HERE = Path(__file__).parent


def keyed(records: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Index records by ``name(parameter=value, ...)``, with #2, #3 for repeated keys."""
    by_key: dict[str, dict[str, Any]] = {}
    for record in records:
        parameters = ", ".join(f"{name}={value}" for name, value in sorted(record["params"].items()))
        key = base = f"{record['name']}({parameters})"
        count = 1
        while key in by_key:
            count += 1
            key = f"{base}#{count}"
        by_key[key] = record
    return by_key


@pytest.fixture(scope="session")
def openrlhf() -> dict[str, dict[str, Any]]:
    return keyed(json.loads((HERE / "openrlhf.json").read_text()))


@pytest.fixture(scope="session")
def trl() -> dict[str, dict[str, Any]]:
    return keyed(json.loads((HERE / "trl.json").read_text()))


@pytest.fixture(scope="session")
def safe_rlhf() -> dict[str, Any]:
    """The cases; those of the ``paddlenlp`` block are ``paddlenlp.<name>``."""
    cases = json.loads((HERE / "safe_rlhf_vectors.json").read_text())["cases"]
    block = cases.pop("paddlenlp")
    return {**cases, **{f"paddlenlp.{name}": case for name, case in block.items()}}


class Precision(NamedTuple):
    """A dtype and how near to an oracle made in float64 it must come."""

    dtype: str
    tolerance: float

    def tensor(self, values: Any, *, grad: bool = False) -> paddle.Tensor:
        return paddle.to_tensor(np.asarray(values, self.dtype), stop_gradient=not grad)


@pytest.fixture(params=[Precision("float64", 1e-9), Precision("float32", 1e-5)], ids=lambda p: p.dtype)
def precision(request: pytest.FixtureRequest) -> Precision:
    return request.param


@pytest.fixture
def close(precision: Precision) -> Callable[..., None]:
    """``close(actual, expected, tolerance=...)`` in the current precision."""

    def check(actual: Any, expected: Any, tolerance: float = precision.tolerance) -> None:
        actual = actual.numpy() if isinstance(actual, paddle.Tensor) else np.asarray(actual)
        np.testing.assert_allclose(actual, np.asarray(expected), rtol=tolerance, atol=tolerance)

    return check


@pytest.fixture
def nearly(close: Callable[..., None]) -> Callable[..., None]:
    """As ``close``, for oracles made in float32."""
    return lambda actual, expected: close(actual, expected, 1e-5)
