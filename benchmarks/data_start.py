"""Seconds from a file of rows to encoded samples, against transformers with ``datasets.map`` in the same run.

    python benchmarks/data_start.py [--rows 300000] [--peer_rows 300000] [--workers 2] [--write]

Rows are short prompts with one answer in ChatML. Their words are drawn from 3,000, and a byte-level BPE trained here
knows nearly all of them whole, as real ones know common words; everything comes from fixed seeds.
Each side is one process tree that starts cold: ours encodes, then starts again on what it kept. The peer reads the same
file with ``datasets``, renders prompt and whole conversation, tokenises both and masks the prompt, in as many
processes. The samples of both must be equal. CPU seconds are those of all processes together, and say more on a machine
that others use.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from ppo_step_report import commit, cpu_name  # noqa: E402

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NUM_CHECKED = 200
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_inputs(folder: Path, num_rows: int) -> None:
    """Write ``rows.jsonl`` and a tokenizer; the words are drawn from 3,000."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    draw = random.Random(0)
    words = ["".join(draw.choice(LETTERS) for _ in range(draw.randint(2, 9))) for _ in range(3000)]

    def sentence(low: int, high: int) -> str:
        return " ".join(draw.choice(words) for _ in range(draw.randint(low, high)))

    with (folder / "rows.jsonl").open("w") as stream:
        for _ in range(num_rows):
            stream.write(json.dumps({"input": sentence(6, 14), "answer": sentence(6, 18)}) + "\n")
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=24000,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator((sentence(6, 18) for _ in range(20_000)), trainer)
    library.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "<|endoftext|>"}))


def encode_here(folder: Path, workers: int) -> list[Mapping[str, Any]]:
    """Return the samples of this package; what it keeps lies in ``folder/kept``."""
    from alignment.data import SupervisedDataset
    from alignment.data.encode import EncodeOptions
    from alignment.data.encoded.build import Encoding
    from alignment.models.tokenizer.tokenizer import load_tokenizer

    dataset = SupervisedDataset(
        {"jsonl": {"path": str(folder / "rows.jsonl")}},
        load_tokenizer(folder),
        options=EncodeOptions(template="tokenizer"),
        encoding=Encoding(num_workers=workers, cache_dir=folder / "kept"),
    )
    assert len(dataset) == sum(1 for _ in (folder / "rows.jsonl").open())
    return [dataset[row] for row in range(NUM_CHECKED)]


def encode_with_peer(folder: Path, workers: int) -> list[Mapping[str, Any]]:
    """Return the samples of transformers and datasets."""
    import datasets
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def encode(batch: Mapping[str, list[str]]) -> dict[str, list[list[int]]]:
        asked = [[{"role": "user", "content": text}] for text in batch["input"]]
        whole = [
            [*turns, {"role": "assistant", "content": answer}]
            for turns, answer in zip(asked, batch["answer"], strict=True)
        ]
        prompts = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=False)
        ids = tokenizer.apply_chat_template(whole, tokenize=True, return_dict=False)
        # The line break behind the end of the answer is nothing to learn.
        labels = [[-100] * len(p) + row[len(p) : -1] + [-100] for p, row in zip(prompts, ids, strict=True)]
        return {"input_ids": ids, "labels": labels}

    rows = datasets.load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train", cache_dir=folder / "hf")
    encoded = rows.map(encode, batched=True, num_proc=workers, remove_columns=["input", "answer"])
    return [encoded[row] for row in range(NUM_CHECKED)]


SIDES: dict[str, Callable[[Path, int], list[Mapping[str, Any]]]] = {"alignment": encode_here, "peer": encode_with_peer}


def run_side(side: str, folder: Path, workers: int) -> None:
    """Print seconds and the first ids as one line of JSON; imports count."""
    started = time.monotonic()
    samples = SIDES[side](folder, workers)
    seconds = time.monotonic() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    ids = [[list(map(int, sample[name])) for name in ("input_ids", "labels")] for sample in samples]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_gib": used[0].ru_maxrss / 2**20, "ids": ids}))


def measure(side: str, folder: Path, workers: int) -> dict[str, Any]:
    """Run one side in its own process and return what it printed."""
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder), "--workers", str(workers)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def compare(num_rows: int, peer_rows: int, workers: int) -> str:
    """Return the table of both sides as Markdown; RuntimeError where their samples differ."""
    lines = [
        f"# From a file to encoded rows, {datetime.date.today().isoformat()}",
        "",
        f"{cpu_name()}, commit {commit()}, {workers} processes. Short prompts with one answer in ChatML: "
        "`benchmarks/data_start.py`. Others used the machine: compare CPU seconds; wall seconds are upper bounds.",
        "",
        "| side | rows | wall s | CPU s | CPU us a row | peak GiB of the run |",
        "|---|---|---|---|---|---|",
    ]
    first_ids = []
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        for place, count in ((ours, num_rows), (theirs, peer_rows)):
            write_inputs(Path(place), count)
        for name, side, place, count in (
            ("alignment, first start", "alignment", ours, num_rows),
            ("alignment, next start", "alignment", ours, num_rows),
            ("transformers and datasets.map", "peer", theirs, peer_rows),
        ):
            found = measure(side, Path(place), workers)
            first_ids.append(found["ids"])
            lines.append(
                f"| {name} | {count} | {found['seconds']:.1f} | {found['cpu']:.1f} | {found['cpu'] / count * 1e6:.0f} "
                f"| {found['peak_gib']:.2f} |"
            )
    if any(ids != first_ids[0] for ids in first_ids[: 3 if num_rows == peer_rows else 2]):
        raise RuntimeError("the sides encode differently")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure one side, or both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--peer_rows", type=int, default=300_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="a dated file under results/")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        run_side(given.side, given.folder, given.workers)
        return
    table = compare(given.rows, given.peer_rows, given.workers)
    print(table)
    if given.write:
        name = f"{datetime.date.today().isoformat()}-data-start.md"
        (ROOT / "benchmarks" / "results" / name).write_text(table)


if __name__ == "__main__":
    main()
