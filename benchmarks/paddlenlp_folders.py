"""Model folders to and from PaddleNLP: ``python benchmarks/paddlenlp_folders.py --peers FOLDER``.

FOLDER is what ``rollout_environments.py FOLDER paddlenlp`` made; ``--python`` names another Python that has PaddleNLP.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from alignment.device.host import prepare_host

prepare_host()

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from ppo_step_report import commit, cpu_name  # noqa: E402

from alignment.commands.export import export_model  # noqa: E402
from alignment.models.folders.hub import load_causal_lm, random_causal_lm  # noqa: E402
from alignment.models.folders.saving import save_model  # noqa: E402
from alignment.models.tokenizer.tokenizer import load_tokenizer  # noqa: E402

HERE = Path(__file__).parent
PEER = HERE / "paddlenlp_folders_peer.py"
TOLERANCE = 1e-4
"""Largest difference of a logit."""
FAMILIES = ("llama", "mistral", "qwen2")
SHAPE = {
    "vocab_size": 600,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
}


@dataclass
class Row:
    """One folder."""

    family: str
    written_as: str
    read_logits: float | None
    """Largest difference of what is read here to what PaddleNLP computed; None: PaddleNLP did not write it."""
    read_ids: str
    """Texts with the same ids, of how many."""
    opened_logits: float = 0.0
    """Largest difference of PaddleNLP with the exported folder to this package with the source."""
    opened_ids: str = ""


def main() -> None:
    """Write, read, export, open, compare; status 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument("--peers", type=Path, metavar="FOLDER", help="environments of rollout_environments.py")
    place.add_argument("--python", type=Path, help="a Python that has PaddleNLP")
    parser.add_argument("--write", action="store_true", help="write a dated file")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args()
    python = options.python or options.peers / "paddlenlp" / "bin" / "python"
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run_peer(python, "write", work)
        rows = compare(python, work)
        versions = json.loads((work / "versions.json").read_text(encoding="utf-8"))
    agrees = all((row.read_logits or 0.0) < TOLERANCE and row.opened_logits < TOLERANCE for row in rows)
    agrees &= all(len(set(told.split(" of "))) == 1 for row in rows for told in (row.read_ids, row.opened_ids) if told)
    text = report(rows, versions, agrees=agrees)
    sys.stdout.write(text)
    if options.write:
        stem = f"{datetime.date.today().isoformat()}-paddlenlp-folders"
        (options.results / f"{stem}.md").write_text(text, encoding="utf-8")
        record = {"versions": versions, "commit": commit(), "rows": [asdict(row) for row in rows]}
        (options.results / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(0 if agrees else 1)


def run_peer(python: Path, command: str, work: Path) -> None:
    """Let PaddleNLP write or open folders; what it says goes to the standard error."""
    subprocess.run([str(python), str(PEER), command, str(work)], check=True, stdout=sys.stderr)


def compare(python: Path, work: Path) -> list[Row]:
    """Return a row for each folder that PaddleNLP wrote, and for one of Hugging Face's format for each family."""
    for name in ("rows", "exported", "opened"):
        (work / name).mkdir()
    texts = read_texts()
    rows, expected = {}, {}
    for folder in sorted((work / "written").iterdir()):
        facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        with np.load(folder / "outputs.npz") as file:
            ids, outputs = file["ids"], file["outputs"]
        row = Row(facts["family"], facts["format"], 0.0, "")
        expected[folder.name] = read_here(folder, ids, texts)
        row.read_logits = float(np.abs(expected[folder.name][0] - outputs).max())
        row.read_ids = same(expected[folder.name][1], facts["ids"])
        rows[folder.name] = row
        np.save(work / "rows" / f"{folder.name}.npy", ids)
        export_model(folder, work / "exported" / folder.name, dtype="float32", layout="paddlenlp")
    for family in FAMILIES:
        name = f"{family}-huggingface"
        folder = write_huggingface(family, work / name)
        ids = np.random.default_rng(3).integers(0, SHAPE["vocab_size"], (4, 64))
        rows[name], expected[name] = Row(family, "Hugging Face", None, ""), read_here(folder, ids, texts)
        np.save(work / "rows" / f"{name}.npy", ids)
        export_model(folder, work / "exported" / name, dtype="float32", layout="paddlenlp")
    run_peer(python, "open", work)
    for name, row in rows.items():
        opened = np.load(work / "opened" / f"{name}.npy")
        row.opened_logits = float(np.abs(expected[name][0] - opened).max())
        row.opened_ids = same(expected[name][1], json.loads((work / "opened" / f"{name}.json").read_text()))
    return list(rows.values())


def read_texts() -> list[str]:
    """Return the texts that both sides tokenise; they are recorded beside the tests, which need no PaddleNLP."""
    recorded = HERE.parent / "tests" / "golden" / "paddlenlp_tokenizers" / "llama" / "ids.json"
    return [text["text"] for text in json.loads(recorded.read_text(encoding="utf-8"))["texts"]]


def write_huggingface(family: str, folder: Path) -> Path:
    """Write a model of this package with the tokenizer of the demo; its vocabulary is larger than the tokenizer."""
    tokenizer = load_tokenizer(HERE.parent / "alignment" / "data" / "shipped" / "packing" / "tokenizer")
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**SHAPE, "model_type": family}), encoding="utf-8")
    save_model(folder, random_causal_lm(folder, seed=0, tokenizer=tokenizer), tokenizer)
    return folder


def read_here(folder: Path, ids: np.ndarray, texts: list[str]) -> tuple[np.ndarray, list[list[int]]]:
    """Return the logits of ``ids`` and the ids of the texts."""
    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    model.eval()
    with paddle.no_grad():
        return model(paddle.to_tensor(ids)).numpy(), [tokenizer.encode(text) for text in texts]


def same(ours: list[list[int]], theirs: list[list[int]]) -> str:
    """Return how many texts have the same ids, of how many."""
    return f"{sum(a == b for a, b in zip(ours, theirs, strict=True))} of {len(theirs)}"


def report(rows: list[Row], versions: dict[str, str], *, agrees: bool) -> str:
    """Return the table in Markdown."""
    lines = [
        "# Model folders between this package and PaddleNLP",
        "",
        f"paddlenlp {versions['paddlenlp']} on paddle {versions['paddle']}, {cpu_name()}, commit {commit()}. "
        "Tiny models, float32, 4 rows of 64 tokens; largest difference of a logit, and texts with equal ids.",
        "",
        "| family | written as | read here: logits | ids | exported, opened by PaddleNLP: logits | ids |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        read = "-" if row.read_logits is None else f"{row.read_logits:.1e}"
        lines.append(
            f"| {row.family} | {row.written_as} | {read} | {row.read_ids or '-'} | {row.opened_logits:.1e} | "
            f"{row.opened_ids} |"
        )
    verdict = f"all within {TOLERANCE:g}, all ids equal" if agrees else "SOMETHING DIFFERS"
    return "\n".join([*lines, "", verdict]) + "\n"


if __name__ == "__main__":
    main()
