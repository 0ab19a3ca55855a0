"""Peak memory of each phase in the fullest process.

Counts hold from the second iteration on, when the optimizer has its moments. ``device`` counts device memory; ``host``
counts host memory: what ``offload_level`` moved there, the fused engine, and the scratch memory of compiled operators
(for as many threads as this process would use).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from alignment.architecture import reshard_plan
from alignment.architecture.layout import Layout
from alignment.device.host import num_threads
from alignment.planner.choices import batched_choices, kept_choices
from alignment.planner.engines import engine_memory
from alignment.planner.job import CRITICS, Job
from alignment.planner.models import Placed, place_models
from alignment.planner.rollout import CHOICES, PlannedRollout
from alignment.planner.update import STEP, update_moments

WAITING = "waits"
"""The moment of a process without a part in a phase."""
CACHE, SCRATCH, OFFLOADED, AVERAGED = "key-value cache", "scratch", "offloaded", "averaged weights"
COMPONENTS = (
    *("policy weights", "critic weights", "cost_critic weights", "reference weights", "teacher weights"),
    *("reward weights", "cost weights"),
    *("gathered weights", "rollout weights", "teacher states"),
    *("optimizer", "gradients", "activations", CACHE, SCRATCH, "sampling", CHOICES, OFFLOADED, AVERAGED),
)
"""What memory is used for, in display order."""
ALWAYS_SHOWN = ("optimizer", "gradients", "activations")
"""Components of every run, besides the weights of its models; a run that generates has ``CACHE`` too."""


@dataclass(frozen=True)
class Moment:
    """The bytes in use at one moment, by component."""

    name: str
    device: Mapping[str, int]
    host: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def on_device(self) -> int:
        """Bytes on the device."""
        return sum(self.device.values())

    @cached_property
    def on_host(self) -> int:
        """Bytes in host memory."""
        return sum(self.host.values())

    @cached_property
    def everywhere(self) -> int:
        """Bytes on the device and in host memory together: what matters if the device is the CPU."""
        return self.on_device + self.on_host

    @property
    def by_name(self) -> dict[str, int]:
        """Bytes on the device and in host memory together, by component."""
        return {name: self.device.get(name, 0) + self.host.get(name, 0) for name in {**self.device, **self.host}}


Measure = Callable[[Moment], int]


def phase_memory(job: Job, layout: Layout, measure: Measure) -> dict[str, Moment]:
    """Return the peak moment of the fullest process, by ``measure``, for each phase.

    Only the first, second and last pipeline stage are evaluated: the others hold no more than the second.
    """
    stages = [
        StageMemory(job, layout, stage) for stage in sorted({0, min(1, layout.pipeline - 1), layout.pipeline - 1})
    ]
    return {phase: max((m for stage in stages for m in stage.moments(phase)), key=measure) for phase in job.phases}


class ProcessMemory:
    """One process, with what it holds of each model and of the rollout engine."""

    def __init__(
        self, job: Job, models: Mapping[str, Placed], rollout: PlannedRollout | None, *, sent: int = 0
    ) -> None:
        """``models`` are those that the process has, by role; ``rollout``: its part in sampling (None: it has none);
        ``sent``: bytes of the policy that it sends to the rollout ranks.
        """
        self._job, self._models, self._sent = job, models, sent
        self._engine = engine_memory(rollout) if rollout is not None else None
        self._engine_device = self._engine.standing if self._engine else {}
        self._engine_host = self._engine.standing_on_host if self._engine else {}
        rows = {name: job.rows_per_batch if model.is_trained else self._rows(name) for name, model in models.items()}
        passes = [model.one_pass(rows[name], learns=model.is_trained) for name, model in models.items()]
        trained = [step for step, model in zip(passes, models.values(), strict=True) if model.is_trained]
        self._choices = kept_choices(job) if "policy" in models or rollout is not None else 0
        self._scratch = max((step.scratch(num_threads()) for step in trained or passes), default=0)

    def moments(self, phase: str) -> Iterator[Moment]:
        """Yield the moments of ``phase``, which must be one of the job's."""
        phases = {
            "rollout": self._generate,
            "score": self._score,
            "reference": lambda: self._forward("reference" if "reference" in self._models else "policy", left=()),
            "teacher": lambda: self._forward("teacher", left=()),
            "update": self._update,
        }
        yield from phases[phase]()

    def _generate(self) -> Iterator[Moment]:
        if self._sent:
            message = min(self._sent, reshard_plan.MESSAGE_BYTES)
            yield self._moment("weights leave", ["policy"], {"rollout weights": message})
        if self._engine is None:
            yield self._waits
            return
        for moment in self._engine.moments():
            device, host = {**self._engine_device, **moment.device}, {**self._engine_host, **moment.host}
            yield self._moment(moment.name, ["policy"], device, host=host)
        if not self._job.is_on_policy:
            yield from self._forward("policy", left=())  # for the gate
        if "policy" in self._models:
            yield from self._moves(["policy"])

    @property
    def _waits(self) -> Moment:
        """The moment of a phase in which the process does nothing."""
        return self._moment(WAITING, [], {})

    def _score(self) -> Iterator[Moment]:
        if not self._models:
            yield self._waits
        for name in (name for name in self._models if self._job.scored_rows(name)):
            # Models run one after the other; the head of an earlier one may still be gathered.
            yield from self._forward(name, left=[other for other in self._models if other != name])

    def _forward(self, name: str, *, left: Sequence[str]) -> Iterator[Moment]:
        """Yield the moments of a pass of model ``name`` without gradients; the heads of ``left`` are gathered."""
        job, model = self._job, self._models[name]
        count = self._rows(name)
        step = model.one_pass(count)
        needed = (model.last_layer(step) or step).forward_only
        compares = name in job.pairwise
        targets = 2 * count if compares else count * job.response
        head = model.head(targets, is_scaled=job.is_scaled and not compares, learns=False)
        if head is not None and name != "teacher":
            needed = max(needed, head.forward_only(with_entropy=name == "policy" and job.teacher is None))
        whole = sum(map(self._whole_head, left))
        states = self._exchanged if name == "teacher" else {}
        read = batched_choices(job, rows=job.scored_rows(name), at_once=count) if name == "policy" else 0
        needs = {"activations": needed, **states}
        gathered = whole + model.whole_unit
        yield self._moment(f"{name} forward", [name], needs, whole=gathered, host={CHOICES: read})
        if model.gathering:
            coming = {"activations": step.shared + 3 * step.boundary}
            yield self._moment(f"{name} gathered", [name], coming, whole=whole + model.gathering)
        yield from self._moves([name])

    def _rows(self, name: str) -> int:
        """Return the rows of a pass of model ``name`` without gradients."""
        job, layout = self._job, self._models[name].layout
        if not job.is_on_policy:
            return job.logprob_rows * (job.joined if name != "teacher" and layout.pipeline == 1 else 1)
        if name == "policy":
            return min(job.logprob_rows, job.scored_rows(name))
        scores = dict.fromkeys(("reward", "cost", *job.other_rewards), job.reward_rows) | job.source_rows
        return {**scores, **dict.fromkeys(CRITICS, job.value_rows)}.get(name, job.logprob_rows)

    def _update(self) -> Iterator[Moment]:
        if not any(model.is_trained for model in self._models.values()):
            yield self._waits
        for model in (model for model in self._models.values() if model.is_trained):
            # The reference last ran in the score phase; critics are updated before the policy runs again.
            left = self._frozen_heads
            left += self._whole_head("policy") if model.name in CRITICS else 0
            for name, gradients, activations, gathered in update_moments(model):
                needed = {"gradients": gradients, "activations": activations}
                what, host = f"{model.name} {name}", {CHOICES: self._learned_choices(model.name)}
                yield self._moment(what, [model.name], needed, steps=name == STEP, whole=left + gathered, host=host)
            gradients = {"gradients": model.gradients.between_batches}
            yield from self._moves([model.name], gradients)
            yield from self._moves([model.name], gradients, with_optimizer=True)

    def _learned_choices(self, name: str) -> int:
        """Return the bytes of the experts' choices in the micro-batches of an update, which all models share."""
        if "policy" not in self._models:
            return 0
        rows, count = self._job.rows_per_batch, self._job.micro_batches
        return batched_choices(self._job, rows=rows * count, at_once=rows if name == "policy" else 0)

    def _moment(
        self,
        name: str,
        used: list[str],
        needed: Mapping[str, int],
        *,
        steps: bool = False,
        whole: int | None = None,
        host: Mapping[str, int] | None = None,
    ) -> Moment:
        """Return the moment at which the models ``used`` and also ``needed`` are on the device.

        ``steps``: with their optimizer state; ``whole``: bytes gathered by sharding stage 3 (None: the heads of
        frozen models).
        """
        models = self._models.values()
        here = [model for model in models if self._is_here(model, used)]
        trained = [model for model in models if model.is_trained]
        stepping = [m for m in trained if "optimizer" not in self._job.offloaded or (steps and m.name in used)]
        stays = "train_model" not in self._job.offloaded
        weights: Counter[str] = Counter()
        for model in here:
            weights[self._job.weights_of(model.name)] += model.weights
        device = {
            **weights,
            "optimizer": sum(model.optimizer for model in stepping),
            "gathered weights": self._frozen_heads if whole is None else whole,
            **self._taught,
            **(self._engine_device if stays else {}),
            **needed,
        }
        away = sum(model.weights for model in models if model not in here)
        away += sum(model.optimizer for model in trained if model not in stepping)
        averaged = sum(model.average for model in models)
        in_host = {OFFLOADED: away, AVERAGED: averaged, **(self._engine_host if stays else {}), **(host or {})}
        in_host[SCRATCH] = in_host.get(SCRATCH, 0) + self._scratch
        in_host[CHOICES] = in_host.get(CHOICES, 0) + self._choices
        return Moment(name, _present(device), _present(in_host))

    @cached_property
    def _frozen_heads(self) -> int:
        return sum(model.whole_head for model in self._models.values() if not model.is_trained)

    @cached_property
    def _taught(self) -> Mapping[str, int]:
        """What stays of a teacher on the device: the hidden states of all targets, and its head if it is offloaded or
        cut as the student's.
        """
        teacher = self._models.get("teacher")
        if teacher is None or not self._models["policy"].is_last:
            return {}
        own = self._job.own_layout(self._layout)
        head = teacher.head_elements if "freeze_model" in self._job.offloaded else 0
        if own:
            head = -(-teacher.config.vocab_size // self._layout.tensor) * teacher.config.head_width
        return {"teacher states": self._states + head * self._job.item}

    @cached_property
    def _exchanged(self) -> Mapping[str, int]:
        """What ``_taught`` is while a teacher with a layout of its own runs: also the states of other processes' rows
        that this team computes.
        """
        own, layout = self._job.own_layout(self._layout), self._layout
        if own is None:
            return {}
        kept = self._taught.get("teacher states", 0)
        computed = self._states * own.tensor // (layout.tensor * layout.pipeline)
        return {"teacher states": kept + max(0, computed - (self._states if kept else 0))}

    @property
    def _states(self) -> int:
        """Bytes of the teacher's hidden states of one process's targets."""
        rows = self._job.micro_batches * self._job.rows_per_batch
        return rows * self._job.response * self._models["teacher"].config.head_width * self._job.item

    def _whole_head(self, name: str) -> int:
        """Return the bytes of the gathered head of ``name``; 0 if the run has no such model."""
        return self._models[name].whole_head if name in self._models else 0

    @property
    def _layout(self) -> Layout:
        """The layout of the student."""
        return self._models["policy"].layout

    def _is_here(self, model: Placed, used: list[str]) -> bool:
        part = "train_model" if model.is_trained else "freeze_model"
        return part not in self._job.offloaded or model.name in used

    def _moves(
        self, used: list[str], needed: Mapping[str, int] | None = None, *, with_optimizer: bool = False
    ) -> Iterator[Moment]:
        """Yield the moment at which offloaded tensors are back on the device but their host copy still exists.

        These are the models ``used`` with their gradients, or their optimizer state.
        """
        if with_optimizer:
            moved = sum(self._models[name].optimizer for name in used if "optimizer" in self._job.offloaded)
        else:
            moved = sum(self._models[name].weights for name in used if not self._is_here(self._models[name], []))
            moved += sum((needed or {}).values()) if moved else 0
        if moved:
            there = self._moment("", used, needed or {}, steps=with_optimizer)
            what = f"{used[0]} {'optimizer' if with_optimizer else 'weights'} reloaded"
            yield Moment(what, there.device, {**there.host, OFFLOADED: there.host.get(OFFLOADED, 0) + moved})


class StageMemory(ProcessMemory):
    """The first process of one stage, where every process has its share of every model."""

    def __init__(self, job: Job, layout: Layout, stage: int) -> None:
        rollout = PlannedRollout(job=job, layout=layout, stage=stage) if job.generates else None
        super().__init__(job, place_models(job, layout, stage), rollout)


def _present(sizes: Mapping[str, int]) -> dict[str, int]:
    return {name: size for name, size in sizes.items() if size}
