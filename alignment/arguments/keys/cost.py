"""Arguments of the cost model and of its critic, for algorithms with a constraint; the names are safe-rlhf's."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class CostArguments:
    """What scores the harm of a response. The training keys of the critic (critic_...) are for both critics."""

    cost_model_name_or_path: str = argument(path="model")
    """Folder or hub name of the cost model (objective cost): its scores above 0 mean unsafe."""
    cost_critic_model_name_or_path: str | None = argument(None, path="model")
    """Folder or hub name of the model that the critic of the cost starts from; null: the cost model."""
    normalize_cost: bool = False
    """Divide costs by the standard deviation that the cost model has saved; threshold is then in that unit."""
