"""Export a trained model to a standard folder, verified by reading it back: ``alignment export SOURCE TARGET``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.arguments.command_line import ToolParser
from alignment.errors import ModelFolderError

if TYPE_CHECKING:
    from alignment.models.tokenizer.tokenizer import Tokenizer

DTYPES = ("float32", "bfloat16")
FORMATS = ("huggingface", "paddlenlp")
TOLERANCE = 0.0
"""Largest allowed difference between the logits of the written model and of the one read back."""

_OTHER_FORMS = {
    "average": (
        "it was trained with loss_type=average, so its score is a mean over the answer's tokens",
        "Train with loss_type=sequence-wise",
    ),
    "steps": ("it scores the steps of an answer", "Use its own folder"),
}
"""What is said of the forms of a score that are not read at the last token, and what to do instead."""


def export_model(
    source: Path,
    target: Path,
    *,
    dtype: str,
    layout: str = "huggingface",
    overwrite: bool = False,
    head_prefix: str | None = None,
    base: str | None = None,
) -> dict[str, Any]:
    """Write ``target``, reload it and compare; ``target`` appears only if the logits are equal.

    ``layout`` is one of ``FORMATS``; ``head_prefix`` names an unusual score head. An adapter is merged into its base
    first; ``base`` replaces the base that it names. bfloat16 rounds the weights first, so the comparison stays exact.
    Returns the rows of the printed table.
    """
    from alignment.models.adapters.folder import adapter_in
    from alignment.models.folders.hub import find_in_run
    from alignment.training.durable import write_folder

    adapter = adapter_in(source)
    folder = adapter or find_in_run(source)
    if target.exists() and not overwrite:
        raise ModelFolderError(f"{target} exists already; name a new folder, or replace it with --overwrite")
    _refuse_loss(folder, target)
    if adapter is None:
        model, tokenizer, merged = _load(folder, dtype, head_prefix), _tokenizer(folder), {}
    else:
        model, tokenizer, merged = load_merged(folder, base, dtype)
    _refuse_unlike(model, folder, is_adapter=adapter is not None)
    with write_folder(target) as aside:
        _save(aside, model, tokenizer, layout)
        # Paddle cannot multiply in bfloat16 on CPUs: the rounded weights of both are compared in float32.
        difference = _compare(model.to(dtype="float32"), _load(aside, "float32"), tokenizer, aside)
    size = sum(path.stat().st_size for path in target.rglob("*"))
    return {
        "source": str(folder),
        "folder": str(target),
        "format": layout,
        "dtype": dtype,
        "MiB": size / 2**20,
        **merged,
        "largest logit difference": difference,
    }


def load_merged(folder: Path, base: str | None = None, dtype: str = "float32") -> tuple[Any, Tokenizer, dict[str, Any]]:
    """Return (model, tokenizer, rows of the table) of the adapter in ``folder`` merged into its base."""
    from alignment.models.adapters import merged
    from alignment.parallel.comms.group import ALONE
    from alignment.runs.frozen import frozen_model

    place = merged.find_base(folder, base)
    found = merged.load_merged(folder, place, content=frozen_model("the base", str(place), ALONE).content)
    has_own = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    facts = {"base": str(place), "largest difference to base and adapter": found.difference}
    return found.model.to(dtype=dtype), _tokenizer(folder if has_own else place), facts


def _tokenizer(folder: Path) -> Tokenizer:
    from alignment.models.tokenizer.tokenizer import load_tokenizer

    return load_tokenizer(folder)


def _refuse_loss(folder: Path, target: Path) -> None:
    """Refuse to replace a file, the folder being exported, or the current folder."""
    if target.exists() and not target.is_dir():
        raise ModelFolderError(f"{target} is a file; name a folder")
    for kept, what in ((folder, "the model that is exported"), (Path.cwd(), "the current folder")):
        if target.exists() and kept.resolve().is_relative_to(target.resolve()):
            raise ModelFolderError(f"{target} holds {what} and would be replaced; name another folder")


def _save(folder: Path, model: Any, tokenizer: Tokenizer, layout: str) -> None:
    from alignment.models.folders.paddlenlp_saving import save_paddlenlp
    from alignment.models.folders.saving import save_model

    if layout == "paddlenlp":
        save_paddlenlp(folder, model, tokenizer)
    else:
        save_model(folder, model, tokenizer)


def _load(folder: Path, dtype: str, head_prefix: str | None = None) -> Any:
    from alignment.models.folders.attribute_heads import StoredHead
    from alignment.models.folders.hub import holds_score_model, load_causal_lm, load_score_model

    if holds_score_model(folder, head_prefix=head_prefix):
        return load_score_model(folder, dtype=dtype, stored_head=StoredHead(head_prefix, keeps_attributes=True))
    return load_causal_lm(folder, dtype=dtype)


def _refuse_unlike(model: Any, folder: Path, *, is_adapter: bool) -> None:
    """Refuse a score model whose scores other suites would read differently.

    An adapter cannot be used by itself in this one either, so it is a warning if only the form of the score is another.
    """
    from alignment.telemetry import log

    form = getattr(getattr(model, "options", None), "score_form", "end")
    if form in _OTHER_FORMS and is_adapter:
        what = _OTHER_FORMS[form][0]
        log.warn(f"{folder}: {what}, and other suites read the new folder at the last token: use it in this one only")
    elif form in _OTHER_FORMS:
        what, instead = _OTHER_FORMS[form]
        raise ModelFolderError(
            f"{folder}: {what}, and a sequence classification folder is read at the last token: the exported scores "
            f"would be wrong. {instead}"
        )
    bias = getattr(getattr(model, "score", None), "bias", None)
    if bias is not None and float(bias.abs().max()) > 0:
        raise ModelFolderError(
            f"{folder}: its score head has a bias of {float(bias[0]):g}, which a sequence "
            "classification folder cannot hold: the exported scores would be wrong. Train with score_bias=false"
        )


def _compare(written: Any, read: Any, tokenizer: Tokenizer, folder: Path) -> float:
    from alignment.models.folders.probe import largest_difference, probe

    if _tokenizer(folder).fingerprint() != tokenizer.fingerprint():
        raise ModelFolderError(f"{folder}: the tokenizer read back differs; nothing was exported")
    difference = largest_difference(probe(written), probe(read))
    if not difference <= TOLERANCE:
        raise ModelFolderError(f"{folder}: logits read back differ by {difference:g}; nothing was exported")
    return difference


def main(argv: Sequence[str]) -> None:
    """Export from the command line."""
    from alignment.parallel.initialise import select_device
    from alignment.telemetry import log
    from alignment.telemetry.tables import print_table

    parser = ToolParser(prog="alignment export", description=__doc__)
    parser.add_argument("source", type=Path, help="a run's output folder, a checkpoint, or a model folder")
    parser.add_argument("target", type=Path, help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the written weights")
    parser.add_argument(
        "--format", choices=FORMATS, default="huggingface", help="the library that will read the folder"
    )
    parser.add_argument("--value_head_prefix", help="name of the score head, if it is not a usual one")
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), default="cpu", help="where logits are compared (default cpu)"
    )
    given = parser.parse_args(argv)
    log.configure(output_dir=None, is_main=True)
    select_device(given.device)
    facts = export_model(
        given.source,
        given.target,
        dtype=given.dtype,
        layout=given.format,
        overwrite=given.overwrite,
        head_prefix=given.value_head_prefix,
    )
    print_table("exported and read back", ["", "value"], list(facts.items()))
