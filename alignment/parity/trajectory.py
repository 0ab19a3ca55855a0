"""Run trainers and collect what to compare: metrics, sampled tokens and their measurements, final weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignment.models.adapters.peft_config import WEIGHTS_FILE
from alignment.models.safetensors_io import Stored, list_file, read_tensors
from alignment.parallel.local_ranks import run_ranks
from alignment.records import Experience
from alignment.telemetry.jsonl import read_json_lines
from alignment.trainers.registered import TRAINERS


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One run of one trainer."""

    metrics: list[dict[str, float]]
    """One record per update."""
    responses: list[list[np.ndarray]]
    """Token ids of every response, by iteration (on-policy only)."""
    logprobs: list[np.ndarray]
    """[N, R] of the policy before each update (on-policy only)."""
    values: list[np.ndarray]
    """[N, R] of the critic before each update (with a critic only)."""
    weights: dict[str, np.ndarray]
    """Final tensors by model and name."""


def run_trainers(jobs: Sequence[tuple[str, Path]], *, world_size: int, timeout: float) -> list[Trajectory]:
    """Run (trainer, path of its JSON) one after the other in ``world_size`` processes."""
    target = "alignment.parity.trajectory:train_all"
    observed = run_ranks(target, [(name, str(path)) for name, path in jobs], world_size=world_size, timeout=timeout)
    return [
        _trajectory(path.with_suffix(""), experiences) for (_, path), experiences in zip(jobs, observed[0], strict=True)
    ]


def train_all(jobs: Sequence[tuple[str, str]]) -> list[list[dict[str, Any]]]:
    """Run all jobs in this rank; return the observations of each iteration."""
    return [_train(name, path) for name, path in jobs]


def _train(name: str, path: str) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    def observe(experience: Experience) -> None:
        rollout = experience.rollout
        responses = [response.copy() for response in rollout.responses]
        seen.append({"responses": responses, "logprobs": rollout.old_logprobs, "values": rollout.values})

    TRAINERS[name].train([path], host="a run of the parity check", observe=observe)
    return seen


def _read_model(folder: Path) -> Iterator[Stored]:
    """Yield the tensors of a model, or of an adapter, in ``folder``."""
    adapter = folder / WEIGHTS_FILE
    if not adapter.is_file():
        yield from read_tensors(folder)
        return
    for location in list_file(adapter):
        yield location.read()


def read_weights(output: Path) -> dict[str, np.ndarray]:
    """Return the exported tensors of models and adapters in ``output``, by model and name."""
    weights = {}
    for model in {model: None for name in TRAINERS for model in TRAINERS[name].models}:
        if (output / model).is_dir():
            weights |= {f"{model}/{stored.name}": stored.as_float32() for stored in _read_model(output / model)}
    return weights


def _trajectory(output: Path, seen: Sequence[dict[str, Any]]) -> Trajectory:
    return Trajectory(
        metrics=list(read_json_lines(output / "metrics.jsonl")),
        responses=[part["responses"] for part in seen],
        logprobs=[part["logprobs"] for part in seen],
        values=[part["values"] for part in seen if part["values"] is not None],
        weights=read_weights(output),
    )
