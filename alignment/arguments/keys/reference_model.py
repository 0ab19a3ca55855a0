"""Arguments of the frozen reference model."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.fields import argument, where

_FREE = where("reference_free", True)


@dataclass(frozen=True, kw_only=True)
class ReferenceModelArguments:
    """The reference model, and when its log-probs are computed."""

    ref_model_name_or_path: str | None = argument(None, path="model", inert_when=_FREE)
    """Folder or hub name of the reference model; null: the model that training starts from."""
    precompute_ref_logprobs: bool = argument(False, inert_when=_FREE)
    """Compute the reference's log-probs once, before training, and keep them in output_dir/reference_logprobs."""
