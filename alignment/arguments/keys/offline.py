"""Arguments of all offline trainers."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.arguments.keys.training import NO_EVALUATION
from alignment.fields import argument


@dataclass(frozen=True, kw_only=True)
class OfflineArguments:
    """What to train on and from which model."""

    train_datasets: str = argument(path="datasets")
    """Rows to train on: name[:proportion[:path]], several separated by commas."""
    eval_datasets: str | None = argument(None, path="datasets", inert_when=NO_EVALUATION)
    """Rows to evaluate on."""
    model_name_or_path: str | None = argument(None, path="model")
    """Folder or hub name of the model to start from (except for SFT itself, usually the SFT model)."""
    model_config_name_or_path: str | None = argument(None, path="model")
    """config.json, or its folder, of a model to start from random weights (tests, demo)."""
