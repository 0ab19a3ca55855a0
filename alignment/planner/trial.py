"""Run two iterations of a trainer with full batches in one process of a check, and record its memory by phase.

Here freed memory is returned to the system, so that resident memory is what is in use. Normal runs keep freed memory,
which is faster (``device.host``), so their resident memory stays at its peak.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import platform
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from paddle.base import core

from alignment.arguments.parsed import Parsed
from alignment.data.encoded.comparisons import ORDERS
from alignment.data.encoded.supervised import IGNORE_INDEX
from alignment.data.loader import BatchLoader
from alignment.device.memory import HostGauge, MemoryWatch
from alignment.parallel.initialise import select_device
from alignment.planner.offline_job import offline_batches
from alignment.records import Rollout
from alignment.rollout.rewards.pairwise_scores import PairwiseReader
from alignment.runs.launch import open_launch
from alignment.runs.offline.pairs import COST_PAIRS, SIDES
from alignment.runs.offline.train import build_run
from alignment.runs.on_policy.prompts import OnPolicyData, RowPlan
from alignment.runs.on_policy.reward_models import LoadedReward
from alignment.runs.on_policy.roles import Roles, load_roles
from alignment.runs.on_policy.run import OnPolicyRun
from alignment.trainers.objectives import objective_of
from alignment.trainers.ppo.arguments import parse_ppo_arguments
from alignment.trainers.registered import TRAINERS

_WORDS = ("map", "rope", "lamp", "tent", "coat")
"""Tokens of the shipped tokenizer."""
_MALLOPT_SETTINGS = ((-4, 1 << 16), (-3, 1 << 16), (-1, 1 << 17), (-2, 0))
"""(parameter, value): M_MMAP_MAX on, M_MMAP_THRESHOLD 64 KiB, M_TRIM_THRESHOLD 128 KiB, M_TOP_PAD none."""


class Peak(NamedTuple):
    """The peak memory of a process in one phase, in bytes."""

    tensors: int
    """Host memory allocated by Paddle."""
    resident: int
    """Resident memory of the whole process, as counted by Linux."""


class TensorGauge:
    """What Paddle has given out in host memory; a ``device.memory.Gauge``."""

    def read(self) -> tuple[int, int]:
        """See ``Gauge``."""
        return core.host_memory_stat_current_value("Allocated", 0), core.host_memory_stat_peak_value("Allocated", 0)

    def reset(self) -> None:
        """See ``Gauge``."""
        core.host_memory_stat_reset_peak_value("Allocated", 0)


class PhaseRecorder(MemoryWatch):
    """Two watches in the place of one; keeps the peaks of the last iteration."""

    def __init__(self) -> None:
        super().__init__(HostGauge())
        self._tensors = MemoryWatch(TensorGauge())
        self.last: dict[str, Peak] = {}
        """By phase."""

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """See ``MemoryWatch.phase``."""
        with self._tensors.phase(name), super().phase(name):
            yield

    def pop(self) -> dict[str, float]:
        """See ``MemoryWatch.pop``; called when an iteration ends."""
        tensors, resident = self._tensors.pop(), super().pop()
        names = [key for key in resident if not key.endswith("_after_gib")]
        in_bytes = {key: Peak(int(tensors[key] * 2**30), int(resident[key] * 2**30)) for key in names}
        self.last = {key.removeprefix("memory/").removesuffix("_gib"): peak for key, peak in in_bytes.items()}
        return resident


def run_trial(path: str) -> dict[str, Peak]:
    """Train with the arguments in the JSON at ``path``; return this process's peaks in the last iteration, by phase."""
    _return_freed_memory()
    parsed = parse_ppo_arguments([path])
    recorder = PhaseRecorder()
    with open_launch(parsed, host="a check of the plan") as launch:
        roles = _with_full_texts(load_roles(launch), parsed.generation.max_dec_len)
        plan = RowPlan.of(parsed, batch_ranks=launch.ranks_of("policy").layout.batch)
        OnPolicyRun(launch, roles, _full_data(parsed, plan), plan).train(memory=recorder)
    return recorder.last


class FullTexts:
    """Reads any responses as random words of the shipped tokenizer, for a model that compares: what a random policy
    writes is short as text.
    """

    def __init__(self, reader: PairwiseReader, tokens: int) -> None:
        self.batch = reader.batch
        self._tokens = tokens

    def texts(self, rollout: Rollout) -> list[str]:
        """Return a text of full length for each response, all different."""
        generator = np.random.default_rng(0)
        return [" ".join(generator.choice(_WORDS, self._tokens)) for _ in rollout.responses]


def _with_full_texts(roles: Roles, tokens: int) -> Roles:
    def full(loaded: LoadedReward) -> LoadedReward:
        compares = isinstance(loaded.sequences, PairwiseReader)
        return loaded._replace(sequences=FullTexts(loaded.sequences, tokens)) if compares else loaded

    rewards = {name: full(loaded) for name, loaded in roles.rewards.items()}
    return dataclasses.replace(roles, reward=roles.reward and full(roles.reward), rewards=rewards)


def run_offline_trial(path: str, trainer: str, prompt: int) -> dict[str, Peak]:
    """Do the same as ``run_trial`` with the offline ``trainer`` and prompts of so many tokens; an iteration is an
    update.
    """
    _return_freed_memory()
    parsed = TRAINERS[trainer].parse([path])
    objective = objective_of(trainer, parsed)
    # The rows below have the fields of every objective, which a token budget would count.
    device = select_device(parsed.training.device)
    rows, steps = offline_batches(parsed, objective, prompt, device=device)
    batches = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": steps, "packing_samples": False}
    parsed = parsed.replace("training", **batches)
    recorder = PhaseRecorder()
    with open_launch(parsed, host="a check of the plan") as launch:
        samples = _full_samples(parsed, prompt, batch_ranks=launch.topology.layout.batch)
        build_run(launch, objective, lambda tokenizer: (samples, None)).train(memory=recorder)
    return recorder.last


def constant_reward(inputs: list[Any], responses: list[str], labels: list[Any]) -> list[float]:
    """Return a reward for each response, for runs without a reward model."""
    return [float(index % 2) for index in range(len(responses))]


def _return_freed_memory() -> None:
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in _MALLOPT_SETTINGS:
            libc.mallopt(parameter, value)


def _full_samples(parsed: Parsed, prompt: int, *, batch_ranks: int) -> list[dict[str, Any]]:
    """Return full-length samples for one update of any objective, with a ``prompt`` of so many tokens, or of as many as
    answers that are sampled leave.
    """
    training, length = parsed.training, parsed.data.max_length
    generator = np.random.default_rng(training.seed)
    count = training.per_device_train_batch_size * training.gradient_accumulation_steps * batch_ranks
    sides = (*SIDES, *COST_PAIRS.sides, *ORDERS)
    signs = dict(zip(COST_PAIRS.sign_fields, (1, -1), strict=True))
    names = getattr(getattr(parsed, "offline", None), "attributes", ()) or ("score",)
    teacher = getattr(parsed, "teacher", None)
    begun = max(prompt, length - (teacher.max_dec_len or length) if teacher else 0)
    samples = []
    for number in range(count):
        row, *answers = generator.integers(3, 8, [1 + len(sides), length])
        pairs = zip(sides, answers, strict=True)
        of_sides = {f"{side}_input_ids": np.concatenate([row[:prompt], answer[prompt:]]) for side, answer in pairs}
        label = {"desirable": number % 2, "attributes": [float(number % 2)] * len(names)}
        label |= {"extra_length": 0, "margin": None}
        label |= {"step_positions": np.array([length - 1]), "step_labels": [float(number % 2)]}
        labels = np.where(np.arange(length) < begun, IGNORE_INDEX, row)
        samples.append({"input_ids": row, "labels": labels, "prompt_length": prompt, **of_sides, **signs, **label})
    return samples


def _full_data(parsed: Parsed, plan: RowPlan) -> OnPolicyData:
    """Return random prompts as long as the responses allow, and supervised rows of full length."""
    generator = np.random.default_rng(parsed.training.seed)
    length, response = parsed.data.max_length, parsed.generation.max_dec_len

    def ids(count: int) -> np.ndarray:
        return generator.integers(3, 8, count)

    def text() -> str:
        """A model that reads texts reads as many tokens: each word of the shipped tokenizer is one."""
        return " ".join(generator.choice(_WORDS, length - response))

    prompts = [{"input_ids": ids(length - response), "raw_input": text()} for _ in range(plan.prompts_per_iteration)]
    loader = BatchLoader(prompts, batch_size=plan.prompts_per_iteration, seed=0)
    rows = [ids(length) for _ in range(plan.rows_per_update)]
    supervised = [{"input_ids": row, "labels": row} for row in rows]
    ptx = BatchLoader(supervised, batch_size=1, seed=0) if parsed.on_policy.ptx_coeff else None
    return OnPolicyData(prompts=prompts, evaluation=None, prompt_loader=loader, ptx_loader=ptx)
