"""Arguments of ``alignment select``."""

from __future__ import annotations

from dataclasses import dataclass

from alignment.arguments.groups import Choice, Groups
from alignment.fields import argument
from alignment.selection.registered import METHODS, PEERS


@dataclass(frozen=True, kw_only=True)
class SelectArguments:
    """What is chosen from, how, and where the rows go."""

    scored_file: str = argument(path="file", aliases=("dataset", "dataset_name_or_path"))
    """A file with scored answers: prompt, responses and rewards, or an answer a row with its reward."""
    output_file: str = argument(aliases=("output_path",))
    """The JSON lines to write."""
    method: str = argument(aliases=("choose_type", "post_processor"), spellings=PEERS)
    """Which answers of a prompt are chosen."""
    overwrite: bool = False
    """Whether an existing output_file is replaced."""


GROUPS: Groups = {"select": SelectArguments, "options": Choice("method", METHODS)}
