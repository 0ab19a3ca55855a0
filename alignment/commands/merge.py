"""Merge an adapter into its base and write the whole model, verified: ``alignment merge ADAPTER TARGET``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignment.arguments.command_line import ToolParser
from alignment.commands.export import DTYPES, FORMATS, export_model
from alignment.errors import AdapterError


def main(argv: Sequence[str]) -> None:
    """Merge from the command line."""
    from alignment.models.adapters.folder import adapter_in
    from alignment.parallel.initialise import select_device
    from alignment.telemetry import log
    from alignment.telemetry.tables import print_table

    parser = ToolParser(prog="alignment merge", description=__doc__)
    parser.add_argument("adapter", type=Path, help="an adapter's folder, a run's output folder, or a checkpoint")
    parser.add_argument("target", type=Path, help="the folder to write")
    parser.add_argument("--base", help="folder or hub name of the base (default: the one that the adapter names)")
    parser.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the written weights")
    parser.add_argument(
        "--format", choices=FORMATS, default="huggingface", help="the library that will read the folder"
    )
    given = parser.parse_args(argv)
    log.configure(output_dir=None, is_main=True)
    select_device("cpu")
    if adapter_in(given.adapter) is None:
        raise AdapterError(f"{given.adapter}: no adapter there: neither it nor its policy/ holds adapter_config.json")
    facts = export_model(
        given.adapter,
        given.target,
        dtype=given.dtype,
        layout=given.format,
        overwrite=given.overwrite,
        base=given.base,
    )
    print_table("merged and read back", ["", "value"], list(facts.items()))
