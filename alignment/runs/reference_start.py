"""Take the weights of the reference from the policy, where training starts from the same model, and say so."""

from __future__ import annotations

import paddle

from alignment.errors import ArgumentError
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.placement import Placement
from alignment.runs.launch import Launch
from alignment.runs.models import freeze
from alignment.telemetry import log


def is_policys_start(launch: Launch, obstacle: str | None, *, how: str) -> bool:
    """Tell whether the reference is what the loaded policy is, so that it is not read again, and log it with ``how``.

    ``obstacle`` says why it is another model; None: training starts from it. ArgumentError if the policy's weights are
    asked for and there is an obstacle. A resumed policy has learned, so its reference is read.
    """
    asked = launch.parsed.reference_start.reference_from_policy
    if obstacle is not None and asked is True:
        raise ArgumentError(f"reference_from_policy=true cannot be: {obstacle}. Allowed: auto, false")
    if asked is False or obstacle is not None or launch.checkpoint is not None:
        return False
    log.info(f"the reference is the model that training starts from: {how} (reference_from_policy)")
    return True


def frozen_copy(model: CausalLM, placement: Placement, *, dtype: str) -> CausalLM:
    """Return a frozen model with the weights of ``model`` in memory of its own; ``placement`` cuts as its own does."""
    copy = CausalLM(model.config, dtype=dtype, placement=placement)
    own = dict(copy.named_parameters())
    with paddle.no_grad():
        for name, weight in model.named_parameters():
            paddle.assign(weight, own[name])
    return freeze(copy)
