"""Bytes of gradients and activations at the moments of a model's update that may be the peak."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from alignment.architecture.adapter import FACTORS
from alignment.architecture.families import EMBEDDING
from alignment.architecture.pipeline_schedule import Compute, build_schedule, events_of
from alignment.planner.counts.activations import LastLayer, Pass
from alignment.planner.counts.head import Head
from alignment.planner.counts.operators import FLOAT
from alignment.planner.models import Placed

STEP = "step"
"""The moment at which the optimizer's state is needed."""


class UpdateMoment(NamedTuple):
    """Bytes at one moment."""

    name: str
    gradients: int
    activations: int
    gathered: int = 0
    """Weights gathered by sharding stage 3."""


class _Load(NamedTuple):
    """What a stage holds at the start of a backward pass."""

    step: Pass
    last: LastLayer | None
    """The last layer, where it computes fewer tokens."""
    in_flight: int
    """Micro-batches whose activations are held."""
    is_first: bool
    """Whether no gradient exists yet."""

    def kept(self, num_layers: int) -> int:
        """Return the bytes that ``num_layers`` layers keep for these micro-batches."""
        whole = self.in_flight * self.step.kept(num_layers)
        return whole if self.last is None else whole - self.in_flight * (self.step.kept_by_layer - self.last.kept)


def update_moments(model: Placed) -> list[UpdateMoment]:
    """Return the moments of the passes and of the optimizer's step."""
    job, batches = model.job, model.job.micro_batches
    step = model.one_pass(job.rows_per_batch, learns=True)
    moments = []
    if model.is_frozen_below:
        kept = model.gradients.between_batches
        forward = UpdateMoment("forward", kept, step.forward_only, model.whole_unit)
        gathered = UpdateMoment("layer gathered", kept, step.shared + 3 * step.boundary, model.gathering)
        return [forward, gathered, UpdateMoment(STEP, model.gradients.finishing, 0)]
    for in_flight, is_first in _loads(batches, _in_flight(model, batches)):
        head = model.head(job.rows_per_batch * job.response, is_scaled=job.is_scaled)
        # Rows that are packed may be shorter, with answers as long.
        last = model.last_layer(step, job.length if job.max_tokens else None)
        load = _Load(step, last, in_flight, is_first)
        moments += _pass_moments(model, load, head, with_entropy=job.entropy_gradient)
    if job.with_ptx and model.name == "policy":
        head = model.head(job.rows_per_batch * (job.length - 1), is_scaled=False)
        step = model.one_pass(job.rows_per_batch, shares=False)
        load = _Load(step, model.last_layer(step, job.length - 1), _in_flight(model, batches), False)
        moments += _pass_moments(model, load, head)
    return [*moments, UpdateMoment(STEP, model.gradients.finishing, 0)]


def _in_flight(model: Placed, batches: int) -> int:
    """Return the most micro-batches that this stage's chunks hold for their backward passes."""
    layout = model.layout
    if layout.virtual_stages == 1:
        return min(batches, layout.pipeline - model.stage)
    schedule = build_schedule(layout.pipeline, layout.virtual_stages, batches, with_backward=True)
    held = most = 0
    for event in events_of(schedule, model.stage, layout.pipeline):
        if isinstance(event, Compute):
            held += -1 if event.backward else 1
            most = max(most, held)
    return most


def _loads(batches: int, in_flight: int) -> list[tuple[int, bool]]:
    """Return the pairs (micro-batches in flight, whether no gradient exists yet) that may be the peak."""
    if batches > in_flight:
        return [(in_flight, False)]
    return [(in_flight, True), *([(in_flight - 1, False)] if in_flight > 1 else [])]


def _pass_moments(
    model: Placed, load: _Load, head: Head | None, *, with_entropy: bool = False
) -> Iterator[UpdateMoment]:
    """Yield the moments of a backward pass, from the end of the model to its beginning."""
    gradients, (step, last, in_flight, is_first) = model.gradients, load
    before = 0 if is_first else gradients.between_batches
    kept = load.kept(max(model.layers))
    if head is not None:
        states = kept + (last.read if last else step).norm_input
        making = head.hidden
        if model.adapter is None:
            arriving = gradients.arriving(head.weight, is_first=is_first)
            making = max(head.weight_back, head.hidden + arriving, _averaging_back(model, head))
        logits = states + head.logits_back(with_entropy=with_entropy)
        yield UpdateMoment("logits", before, logits, model.whole_head)
        yield UpdateMoment("gradient of the head", before, states + making, model.whole_head)
    trained_head = model.head_elements if model.adapter is None else 0
    come = trained_head * FLOAT if is_first and not gradients.sections else before
    needed = kept + _layer_back(model, last or step, is_first)
    yield UpdateMoment("last layer", come, needed, model.whole_unit)
    if last is not None and max(model.layers) > 1:
        arrived = come + model.last_gradients * is_first
        needed = kept - last.kept + _layer_back(model, step, is_first)
        yield UpdateMoment("layer before the last", arrived, needed, model.whole_unit)
    yield UpdateMoment("layer gathered", come, kept + 2 * step.boundary, model.gathering)
    if gradients.sections:
        yield from _section_moments(model, step, in_flight, before)
    else:
        yield from _first_layer_moments(model, step, is_first)


def _layer_back(model: Placed, layer: Pass | LastLayer, is_first: bool) -> int:
    """Return the peak of the backward pass of ``layer`` on top of everything kept."""
    elements = _last_weight(model)
    arriving = model.gradients.arriving(elements, is_first=is_first)
    return max(layer.going_back, layer.making_gradient(elements * model.job.item, arriving))


def _averaging_back(model: Placed, head: Head) -> int:
    """Return the bytes alive where the gradient of the mean logits is added to that of the head: two tensors
    of the size of the head, and what was gathered of it for the targets; 0 without label smoothing.
    """
    return model.job.smooths_labels * (2 * head.weight * model.job.item + 3 * head.hidden)


def _last_weight(model: Placed) -> int:
    """Return the elements of a layer's last matrix (of one expert), or of A there if an adapter is trained."""
    ends = [weight.numbered(0).name for weight in model.config.family.layer if weight.role in ("down", "expert_down")]
    return max(model.trained.size_of(f"{name}.{end}weight") for name in ends for end in ("", f"{FACTORS[0]}."))


def _section_moments(model: Placed, step: Pass, in_flight: int, before: int) -> Iterator[UpdateMoment]:
    """Yield the moments at which a section's gradients are complete, so its layers and later ones keep nothing."""
    left = max(model.layers)
    sums = max(before, model.trained.rows * FLOAT)
    for section in model.gradients.sections:
        left = max(0, left - section.layers)
        kept = (in_flight - 1) * step.kept(max(model.layers)) + step.kept(left)
        yield UpdateMoment(
            "gradients of some layers", sums + section.pending, kept + step.boundary, model.whole(section.last)
        )


def _first_layer_moments(model: Placed, step: Pass, is_first: bool) -> Iterator[UpdateMoment]:
    """Yield the moments of the backward pass of the first layer and of the embedding."""
    gradients = model.gradients
    embedding = model.trained.size_of(EMBEDDING) if model.stage == 0 else 0
    come = gradients.between_batches - (embedding * FLOAT if is_first else 0)
    yield UpdateMoment("first layer", come, step.kept(1) + _layer_back(model, step, is_first))
    yield UpdateMoment("embedding", come, step.hidden + gradients.arriving(embedding, is_first=is_first))
