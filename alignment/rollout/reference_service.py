"""Log-probs of the frozen reference from a server (``alignment serve --reference``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from alignment.errors import ModelFolderError, UserError
from alignment.records import Rollout
from alignment.rollout.json_service import JsonService, ServiceError, ServiceKeys
from alignment.rollout.minibatches import gather_grids, split_rows
from alignment.rollout.retries import retry

PATH = "/logprobs"
"""Where a server answers, below its address."""
_KEYS = ServiceKeys("reference_server", "reference_timeout")
_MAX_BYTES = 2**30


class ReferenceIdentity(NamedTuple):
    """What a server says of its model."""

    weights: str
    """A checksum of the configuration and the weights, as a checkpoint records it of a folder."""
    tokenizer: str
    """The fingerprint of its tokenizer."""
    longest: int
    """Tokens of the longest sequence that it reads."""
    dtype: str
    """The dtype that it computes in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceLimits:
    """How long, and how often, an answer is waited for."""

    timeout_seconds: float = 600.0
    retries: int = 3
    backoff_seconds: float = 1.0
    """The pause before the first retry; each further one is twice as long."""


class ReferenceClient:
    """The reference behind the address ``url``; one process of a run asks for all."""

    def __init__(self, url: str, limits: ServiceLimits) -> None:
        address = url.rstrip("/").removesuffix(PATH) + PATH
        self.service = JsonService(address, _KEYS, timeout_seconds=limits.timeout_seconds, max_bytes=_MAX_BYTES)
        self.limits = limits
        self._weights: str | None = None

    def identify(self) -> ReferenceIdentity:
        """Return what the server says of its model; from now on answers must be from these weights.

        UserError if it cannot be reached or says nothing.
        """
        found = self._ask(None, ReferenceIdentity._fields)
        try:
            identity = ReferenceIdentity(
                str(found["weights"]), str(found["tokenizer"]), int(found["longest"]), str(found["dtype"])
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"{self._name} describes its model as {found!r:.200} ({error})") from error
        self._weights = identity.weights
        return identity

    def logprobs(self, rollout: Rollout, *, rows_per_batch: int, temperature: float) -> np.ndarray:
        """Return the log-probs [N, R] float32 of the response tokens at ``temperature``, zero elsewhere.

        ``rows_per_batch`` rows are asked for at a time. UserError if the server gives none, or answers with other
        weights than those that ``identify`` found.
        """
        pieces = split_rows(np.arange(rollout.num_rows), rows_per_batch)
        return gather_grids([self._measure(rollout, rows, temperature) for rows in pieces], rollout.response_width)

    def _measure(self, rollout: Rollout, rows: np.ndarray, temperature: float) -> np.ndarray:
        asked = {
            "prompts": [rollout.prompts[row].tolist() for row in rows],
            "responses": [rollout.responses[row].tolist() for row in rows],
            "temperature": temperature,
        }
        found = self._ask(asked, ("logprobs", "weights"))
        if found["weights"] != self._weights:
            raise ModelFolderError(
                f"{self._name} has loaded other weights than at the start of this run ({found['weights']!r:.60}, then "
                f"{self._weights}): serve the same model again and resume"
            )
        return self._read_grid(found["logprobs"], [len(rollout.responses[row]) for row in rows])

    def _read_grid(self, logprobs: Any, lengths: Sequence[int]) -> np.ndarray:
        """Return log-probs, a list a row, as a grid [n, R]; UserError if they are not one number a token."""
        grid = np.zeros((len(lengths), max(lengths)), np.float32)
        try:
            found = [np.asarray(row, np.float64) for row in logprobs]
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{self._name} answered {logprobs!r:.200}, which is no list of log-probs") from error
        if [row.shape for row in found] != [(length,) for length in lengths]:
            shapes = [row.shape for row in found]
            raise UserError(
                f"{self._name} answered log-probs of shapes {shapes!s:.200} for {list(lengths)!s:.200} tokens"
            )
        for row, values in enumerate(found):
            grid[row, : len(values)] = values
        return grid

    @property
    def _name(self) -> str:
        return f"reference_server={self.service.place}"

    def _ask(self, content: Any, wanted: Sequence[str]) -> Mapping[str, Any]:
        return retry(
            lambda: self.service.ask(content, wanted=wanted),
            self._name,
            self.limits,
            may_pass=lambda failure: failure.may_pass,
            catches=ServiceError,
        )
