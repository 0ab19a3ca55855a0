"""Arguments of the reference model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from alignment.fields import Case, argument, unless, where, where_given

_FREE = where("reference_free", True)
_NO_SYNC = unless("sync_ref_model", True)
_IS_BASE = Case(
    lambda value, s: value not in (False, -1) and bool(s.values.get("lora")),
    "the reference of a policy with an adapter is its base, which does not move",
    "lora is true",
)
_WITHIN = Case(
    lambda value, s: bool(value and s.values.get("lora")) and s.values.get("ref_model_name_or_path") is None,
    "the reference is the policy without its adapter, so there is none to move",
    "lora is true and ref_model_name_or_path is not given",
)
_MOVES = "the log-probs of a reference that moves cannot be computed before training"


class Movement(NamedTuple):
    """How the reference follows the policy."""

    steps: int
    """Updates between moves."""
    share: float
    """Share of the policy in the new weights; 1: a copy."""


@dataclass(frozen=True, kw_only=True)
class ReferenceModelArguments:
    """The reference model, and when its log-probs are computed."""

    ref_model_name_or_path: str | None = argument(
        None, path="model", inert_when=_FREE, aliases=("ref_model", "ref_pretrain")
    )
    """Folder or hub name of the reference model; null: the model that training starts from."""
    ref_offload: bool = argument(False, inert_when=(_FREE, _WITHIN))
    """Keep the reference in host memory between uses, like offload_level freeze_model."""
    precompute_ref_logprobs: bool = argument(
        False,
        aliases=("precompute_ref_log_probs",),
        inert_when=_FREE,
        refused_when=(
            where_given("ref_model_update_steps", f"ref_model_update_steps is given, and {_MOVES}"),
            where_given("sync_ref_model", f"sync_ref_model is given, and {_MOVES}"),
        ),
    )
    """Compute the reference's log-probs once, before training, and keep them in output_dir/reference_logprobs."""
    ref_model_update_steps: int = argument(
        -1,
        minimum=-1,
        excluded=(0,),
        inert_when=_FREE,
        refused_when=(where_given("sync_ref_model", "sync_ref_model is given too; write one of them"), _IS_BASE),
    )
    """Updates between copies of the policy to the reference; -1: the reference stays as it is."""
    sync_ref_model: bool = argument(False, inert_when=_FREE, refused_when=_IS_BASE)
    """Mix the policy into the reference every ref_model_sync_steps updates, by ref_model_mixup_alpha."""
    ref_model_sync_steps: int = argument(512, minimum=1, inert_when=_NO_SYNC)
    """Updates between two such mixtures."""
    ref_model_mixup_alpha: float = argument(0.6, above=0, maximum=1, inert_when=_NO_SYNC)
    """Share of the policy in the reference's new weights; the rest are its old ones."""

    @property
    def movement(self) -> Movement | None:
        """How the reference follows the policy; None: it does not."""
        if self.sync_ref_model:
            return Movement(self.ref_model_sync_steps, self.ref_model_mixup_alpha)
        return Movement(self.ref_model_update_steps, 1.0) if self.ref_model_update_steps > 0 else None
