"""Sample the next rollout before the updates from the present one, or while they are made.

It is then learned from one rollout later than it could be, with importance weights from the policy that sampled it to
the one before the update (``rollout.gate``), as decoupled PPO does (Hilton et al. 2022, "Batch size-invariance for
policy optimization"; Fu et al. 2025, "AReaL").
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from alignment.errors import CheckpointError
from alignment.records import Rollout, pad_right


class Sampled(NamedTuple):
    """Responses on which nothing has been measured yet."""

    rollout: Rollout
    greedy: Rollout | None
    """The greedy response to each prompt, for algorithms that compare with it."""
    epoch_ended: bool
    """Whether the prompts end an epoch."""

    @property
    def rollouts(self) -> list[Rollout]:
        """Everything that was sampled."""
        return [self.rollout] if self.greedy is None else [self.rollout, self.greedy]


Sample = Callable[[], Sampled]


@dataclass(kw_only=True)
class RolloutAhead:
    """Holds at most one rollout that has been sampled ahead, which is part of a checkpoint."""

    is_on: bool = False
    overlaps: bool = False
    """Whether the engine can generate in a thread, with weights of its own, while the policy is updated."""
    needs_greedy: bool = False
    """Whether the algorithm compares with the greedy responses."""
    in_hand: Sampled | None = None

    def take(self) -> Sampled | None:
        """Return the rollout in hand, if there is one, and let go of it."""
        sampled, self.in_hand = self.in_hand, None
        return sampled

    @contextmanager
    def beside(self, sample: Sample, *, wait: Callable[[Sample], Sampled]) -> Iterator[None]:
        """Call ``sample`` in a thread beside the body; its result is the rollout in hand.

        ``wait`` is called after the body with a function that returns the result, or raises what ``sample`` raised.
        """
        with ThreadPoolExecutor(1) as thread:
            future = thread.submit(sample)
            yield
            self.in_hand = wait(future.result)

    def state(self) -> dict[str, Any] | None:
        """Return the rollout in hand as JSON values; None without one."""
        if self.in_hand is None:
            return None
        rollout, greedy, epoch_ended = self.in_hand
        return {
            "rollout": _as_json(rollout),
            "greedy": None if greedy is None else _as_json(greedy),
            "epoch_ended": epoch_ended,
        }

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Restore the result of ``state``; CheckpointError if it cannot be learned from here."""
        if state is None:
            return
        if not self.is_on:
            raise CheckpointError(
                "it holds a rollout that was sampled ahead, whose prompts would be skipped: give rollout_ahead=1"
            )
        greedy = state["greedy"] if self.needs_greedy else None
        if self.needs_greedy and greedy is None:
            raise CheckpointError(
                "it holds a rollout that was sampled ahead without the greedy responses that this algorithm compares "
                "with: resume with the rl_algorithm that wrote it"
            )
        rollouts = _from_json(state["rollout"]), None if greedy is None else _from_json(greedy)
        self.in_hand = Sampled(*rollouts, state["epoch_ended"])


def _as_json(rollout: Rollout) -> dict[str, Any]:
    """Return everything that the collector sets; the log-probs keep their bits."""
    lengths = rollout.response_lengths
    return {
        "prompts": [prompt.tolist() for prompt in rollout.prompts],
        "responses": [response.tolist() for response in rollout.responses],
        "finish_reasons": list(rollout.finish_reasons),
        "group_ids": rollout.group_ids.tolist(),
        "inputs": list(rollout.inputs),
        "labels": list(rollout.labels),
        "routed_experts": _pack_experts(rollout.routed_experts),
        "logprobs": [row[:length].tolist() for row, length in zip(rollout.rollout_logprobs, lengths, strict=True)],
        "policy_version": rollout.policy_version,
        "drafted": None if rollout.drafted is None else rollout.drafted.tolist(),
        "accepted": None if rollout.accepted is None else rollout.accepted.tolist(),
    }


def _pack_experts(rows: tuple[np.ndarray, ...]) -> dict[str, Any] | None:
    """Return ``rows`` [tokens, layers, k] with their bytes in base64; None if there are none."""
    if not rows:
        return None
    packed = [base64.b64encode(row.tobytes()).decode() for row in rows]
    return {"dtype": rows[0].dtype.name, "shape": list(rows[0].shape[1:]), "rows": packed}


def _unpack_experts(saved: dict[str, Any] | None) -> tuple[np.ndarray, ...]:
    if saved is None:
        return ()
    flat = (np.frombuffer(base64.b64decode(row), saved["dtype"]) for row in saved["rows"])
    return tuple(row.reshape([-1, *saved["shape"]]) for row in flat)


def _from_json(saved: dict[str, Any]) -> Rollout:
    responses = tuple(np.array(response, np.int64) for response in saved["responses"])
    logprobs = [np.array(row, np.float32) for row in saved["logprobs"]]
    return Rollout(
        prompts=tuple(np.array(prompt, np.int64) for prompt in saved["prompts"]),
        responses=responses,
        finish_reasons=tuple(saved["finish_reasons"]),
        group_ids=np.array(saved["group_ids"], np.int64),
        inputs=tuple(saved["inputs"]),
        labels=tuple(saved["labels"]),
        routed_experts=_unpack_experts(saved.get("routed_experts")),
        rollout_logprobs=pad_right(logprobs, max(map(len, responses)), 0.0),
        policy_version=saved["policy_version"],
        drafted=_counts(saved.get("drafted")),
        accepted=_counts(saved.get("accepted")),
    )


def _counts(saved: list[int] | None) -> np.ndarray | None:
    return None if saved is None else np.array(saved, np.int64)
