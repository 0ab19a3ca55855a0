"""Where the model of a role is in the output folder of a run that stands for it; works without Paddle."""

from __future__ import annotations

from alignment.arguments.parsed import Parsed
from alignment.models.folders.run_models import CRITIC_FOLDER, CRITIC_FOLDERS
from alignment.runs.on_policy.algorithm import cost_names, critic_name


def role_parts(parsed: Parsed) -> dict[str, tuple[str, ...]]:
    """Return, for each role of an on-policy run, the subfolders that may hold its model, in search order."""
    actor, critic = parsed.on_policy.actor_model_name_or_path, critic_name(parsed)
    has_own = critic is not None and parsed.critic.reward_critic_model_name_or_path
    cost, cost_critic = cost_names(parsed)
    reward = ("reward",)
    other_critic = (CRITIC_FOLDERS["cost_critic"], "reward", CRITIC_FOLDER, "policy")
    return {
        "policy": ("policy",),
        "critic": (CRITIC_FOLDER, "reward", "policy") if has_own else ("policy",) if critic == actor else reward,
        "reward": reward,
        "cost": reward,
        "cost_critic": reward if cost_critic == cost else other_critic,
    }
