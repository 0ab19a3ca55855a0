"""What the scores of reward sources depend on: their faults, and the contents of their models and functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alignment.arguments.rewards.entries import find_faults, read_entries
from alignment.errors import ArgumentError
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.rollout.rewards.user_code import load_function
from alignment.runs.frozen import frozen_functions, frozen_model, frozen_tokenizer
from alignment.runs.on_policy.reward_models import tell_readiness
from alignment.runs.stages.score_arguments import SourceArguments
from alignment.runs.stages.scoring_sources import model_folder
from alignment.runs.stages.stage import ALONE


def check_sources(sources: SourceArguments) -> None:
    """ArgumentError for what is wrong with the sources together."""
    faults = [*find_faults(read_entries(sources.reward_sources), sources.reward_weights)]
    compares = [entry.log_as for entry in sources.entries if entry.kind == "pairwise"]
    if compares and sources.change_of_format is not None:
        faults.append(f"change_of_format: {compares[0]} compares two answers and reads no other form: leave it out")
    if faults:
        raise ArgumentError("\n  ".join(faults))


def source_contents(sources: SourceArguments, base_dir: Path) -> dict[str, Any]:
    """Return checksums of the models (of which unready ones are told) and functions of ``sources``."""
    folders = {entry.log_as: str(model_folder(entry)) for entry in sources.entries if entry.is_model}
    for folder in folders.values():
        tell_readiness(folder)
    models = {
        name: [
            item.content
            for item in (
                frozen_model(name, folder, ALONE),
                *frozen_tokenizer(folder, load_tokenizer(folder), "tokenizer"),
            )
        ]
        for name, folder in folders.items()
    }
    named = [("reward_sources", entry.name) for entry in sources.entries if entry.kind == "function"]
    if sources.change_of_format:
        named.append(("change_of_format", sources.change_of_format))
    code = frozen_functions([load_function(name, base_dir, key=key) for key, name in named])
    return {"models": models, "functions": [item.content for item in code]}
