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
PROBE_ROWS, PROBE_LENGTH = 4, 32
TOLERANCE = 0.0
"""Largest allowed difference between the logits of the written model and of the one read back."""


def export_model(
    source: Path,
    target: Path,
    *,
    dtype: str,
    layout: str = "huggingface",
    overwrite: bool = False,
    head_prefix: str | None = None,
) -> dict[str, Any]:
    """Write ``target``, reload it and compare; ``target`` appears only if the logits are equal.

    ``layout`` is one of ``FORMATS``; ``head_prefix`` names an unusual score head. bfloat16 rounds the weights first, so
    the comparison stays exact. Returns the rows of the printed table.
    """
    from alignment.models.folders.hub import find_in_run
    from alignment.models.tokenizer.tokenizer import load_tokenizer
    from alignment.training.durable import write_folder

    folder = find_in_run(source)
    if target.exists() and not overwrite:
        raise ModelFolderError(f"{target} exists already; name a new folder, or replace it with --overwrite")
    _refuse_loss(folder, target)
    tokenizer = load_tokenizer(folder)
    model = _load(folder, dtype, head_prefix)
    _refuse_unlike(model, folder)
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
        "largest logit difference": difference,
    }


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
    from alignment.models.folders.hub import holds_score_model, load_causal_lm, load_score_model

    if holds_score_model(folder, head_prefix=head_prefix):
        return load_score_model(folder, dtype=dtype, head_prefix=head_prefix)
    return load_causal_lm(folder, dtype=dtype)


def _refuse_unlike(model: Any, folder: Path) -> None:
    """Refuse a score model whose scores other suites would read differently."""
    if getattr(getattr(model, "options", None), "score_form", "end") == "average":
        raise ModelFolderError(
            f"{folder}: it was trained with loss_type=average, so its score is a mean over the answer's tokens, and a "
            "sequence classification folder is read at the last token: the exported scores would be wrong. Train with "
            "loss_type=sequence-wise"
        )
    bias = getattr(getattr(model, "score", None), "bias", None)
    if bias is not None and float(bias.abs().max()) > 0:
        raise ModelFolderError(
            f"{folder}: its score head has a bias of {float(bias[0]):g}, which a sequence "
            "classification folder cannot hold: the exported scores would be wrong. Train with score_bias=false"
        )


def _compare(written: Any, read: Any, tokenizer: Tokenizer, folder: Path) -> float:
    from alignment.models.tokenizer.tokenizer import load_tokenizer

    if load_tokenizer(folder).fingerprint() != tokenizer.fingerprint():
        raise ModelFolderError(f"{folder}: the tokenizer read back differs; nothing was exported")
    difference = max(float((a - b).abs().max()) for a, b in zip(_logits(written), _logits(read), strict=True))
    if not difference <= TOLERANCE:
        raise ModelFolderError(f"{folder}: logits read back differ by {difference:g}; nothing was exported")
    return difference


def _logits(model: Any) -> list[Any]:
    """Return float32 outputs on fixed token ids of several lengths."""
    import numpy as np
    import paddle

    from alignment.records import TokenBatch

    generator = np.random.default_rng(0)
    width = min(PROBE_LENGTH, model.config.max_position_embeddings)
    lengths = generator.integers(1, width + 1, PROBE_ROWS)
    rows = [generator.integers(0, model.config.vocab_size, n) for n in lengths]
    batch = TokenBatch.build(rows, [np.empty(0, np.int64)] * PROBE_ROWS)
    model.eval()
    with paddle.no_grad():
        is_score = hasattr(model, "score")
        outputs = model(batch) if is_score else model(batch.input_ids, lengths=batch.lengths)
    return [outputs[i, :n].astype("float32") for i, n in enumerate(lengths.tolist())]


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
