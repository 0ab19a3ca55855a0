"""Decide whether a run replays the experts that rollouts chose, and say so."""

from __future__ import annotations

from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.replay import ExpertReplay
from alignment.parallel.comms.group import ALONE
from alignment.runs.launch import Launch
from alignment.runs.on_policy.saved_passes import replays_experts
from alignment.telemetry import log


def start_replay(launch: Launch, policy: CausalLM) -> bool:
    """Make ``policy`` replay the choices of its rollouts if the run is to; return whether it does, and log it."""
    asked, experts = launch.parsed.on_policy.use_rollout_routing_replay, policy.config.experts
    if experts is None:
        if asked is True:
            log.warn("use_rollout_routing_replay=true has no effect: the policy has no experts")
        return False
    if not replays_experts(launch.parsed, dtype=launch.product_dtype):
        return False
    topology = launch.ranks_of("policy").topology
    policy.model.replay = ExpertReplay(ALONE if topology is None else topology.world)
    log.info(
        "the policy learns with the experts that rollouts chose, which takes "
        f"{experts.choice_bytes(policy.config.num_hidden_layers)} bytes a token (use_rollout_routing_replay)"
    )
    return True
