"""Arguments that say where the weights of the reference come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignment.fields import Case, Situation, argument, where, where_given


def _has_none(value: object, situation: Situation) -> bool:
    """Tell whether an on-policy run without a critic compares with no reference."""
    values = situation.values
    on_policy = "rl_algorithm" in values and "critic_learning_rate" not in values
    return on_policy and not values.get("kl_coeff") and not values.get("kl_loss_coeff")


@dataclass(frozen=True, kw_only=True)
class ReferenceStartArguments:
    """Where the weights of the reference come from."""

    reference_from_policy: Literal["auto"] | bool = argument(
        "auto",
        inert_when=(
            Case(_has_none, "nothing compares with a reference: kl_coeff and kl_loss_coeff are 0"),
            where("reference_free", True),
            where_given("reference_server", "another process has the reference"),
            where("lora", True, why="the reference of a policy with an adapter is its base, or is read"),
        ),
    )
    """Copy the reference's weights from the policy in memory instead of reading them again; with
    precompute_ref_logprobs the policy itself is run, and there is no copy. That takes a reference that is the model
    that training starts from, on the policy's ranks; a resumed run reads it. auto: true where these hold."""
