"""Decide whether a run replays the experts that rollouts chose, and say so."""

from __future__ import annotations

from alignment.architecture.experts import Experts
from alignment.models.decoder.decoder import CausalLM
from alignment.models.decoder.replay import ExpertReplay
from alignment.parallel.comms.group import ALONE
from alignment.runs.launch import Launch
from alignment.runs.on_policy.savings import computes_in_float32
from alignment.telemetry import log


def start_replay(launch: Launch, policy: CausalLM) -> bool:
    """Make ``policy`` replay the choices of its rollouts if the run is to; return whether it does, and log it."""
    asked, experts = launch.parsed.on_policy.use_rollout_routing_replay, policy.config.experts
    if experts is None:
        if asked is True:
            log.warn("use_rollout_routing_replay=true has no effect: the policy has no experts")
        return False
    if asked is False or (asked == "auto" and computes_in_float32(launch)):
        return False
    topology = launch.ranks_of("policy").topology
    policy.model.replay = ExpertReplay(ALONE if topology is None else topology.world)
    log.info(
        "the policy learns with the experts that rollouts chose, which takes "
        f"{_bytes_per_token(experts, policy.config.num_hidden_layers)} bytes a token (use_rollout_routing_replay)"
    )
    return True


def _bytes_per_token(experts: Experts, num_layers: int) -> int:
    return num_layers * experts.top_k * (1 if experts.number_type == "uint8" else 2)
