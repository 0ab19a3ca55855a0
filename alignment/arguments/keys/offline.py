"""Arguments of all offline trainers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from alignment.arguments.keys.training import NO_EVALUATION
from alignment.fields import argument, where


@dataclass(frozen=True, kw_only=True)
class OfflineArguments:
    """What to train on and from which model."""

    train_datasets: str = argument(
        path="datasets",
        advice=dict.fromkeys(
            ("max_samples", "max_training_samples"),
            "give name:proportion:path in train_datasets, as in jsonl:1000/-1:rows.jsonl",
        )
        | {"dataset_probs": "give name:proportion:path for each dataset of train_datasets"},
    )
    """Rows to train on: name[:proportion[:path]], several separated by commas."""
    eval_datasets: str | None = argument(None, path="datasets", inert_when=NO_EVALUATION)
    """Rows to evaluate on."""
    model_name_or_path: str | None = argument(None, path="model", aliases=("pretrain",))
    """Folder or hub name of the model to start from (except for SFT itself, usually the SFT model)."""
    model_config_name_or_path: str | None = argument(None, path="model")
    """config.json, or its folder, of a model to start from random weights (tests, demo)."""

    @property
    def targets(self) -> str:
        """What a row trains on; see ``EncodeOptions.targets``."""
        return "assistant"


@dataclass(frozen=True, kw_only=True)
class SupervisedArguments(OfflineArguments):
    """What to train on, from which model, and which tokens are learned."""

    loss_on: Literal["assistant", "last", "all"] = argument("assistant", inert_when=where("pretrain_mode", True))
    """Tokens that are trained on: those of every assistant turn (of one answer, if the row has a prompt and an answer),
    of the last assistant turn, or all, prompts included.
    """
    pretrain_mode: bool = False
    """Continue pretraining: train on all tokens of each row's text (the prompt, followed by the answer if there is
    one), without a template and with EOS at the end.
    """

    @property
    def targets(self) -> str:
        """What a row trains on; see ``EncodeOptions.targets``."""
        return "text" if self.pretrain_mode else self.loss_on
