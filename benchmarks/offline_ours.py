"""The runs of ``offline.py`` by this package's trainers, on prepared token ids."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(1, str(ROOT))

from alignment.device.host import prepare_host  # noqa: E402

HOST = prepare_host()

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from offline_work import IGNORED, WEIGHTS, StepClock, Work  # noqa: E402

from alignment.runs.launch import open_launch  # noqa: E402
from alignment.runs.offline.train import build_run  # noqa: E402
from alignment.telemetry.jsonl import read_json_lines  # noqa: E402
from alignment.trainers.objectives import objective_of  # noqa: E402
from alignment.trainers.registered import TRAINERS  # noqa: E402

LOSSES = {"sft": "sft/loss", "rm": "preference/loss", "dpo": "dpo/loss", "kto": "kto/loss"}


class Rows(Sequence):
    """Samples as this package's datasets encode them; an update begins where its first one is read."""

    def __init__(self, work: Work, clock: StepClock) -> None:
        self._rows = [_sample(work, number, *sample) for number, sample in enumerate(work.samples())]
        self._per_step = work.batches_per_step * work.samples_per_batch
        self._clock = clock

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index % self._per_step == 0:
            self._clock.begin()
        return self._rows[index]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)


def _sample(work: Work, number: int, prompt: list[int], answers: list[list[int]]) -> dict[str, Any]:
    first, *others = (np.array(prompt + answer, np.int64) for answer in answers)
    if work.objective == "sft":
        return {"input_ids": first, "labels": np.where(np.arange(len(first)) < len(prompt), IGNORED, first)}
    if work.objective == "kto":
        return {"input_ids": first, "prompt_length": len(prompt), "desirable": int(number % 2 == 0)}
    return {"better_input_ids": first, "worse_input_ids": others[0], "prompt_length": len(prompt)}


def arguments(folder: Path, work: Work, output: str, *, packs: bool) -> dict[str, Any]:
    """Return the trainer's arguments."""
    own = {"beta": work.beta} if work.objective in ("dpo", "kto") else {}
    packing = {"packing_samples": True, "max_tokens_per_batch": work.max_tokens} if packs else {}
    return {
        "train_datasets": "jsonl",  # not read: the rows are given
        "model_name_or_path": str(folder / WEIGHTS[work.objective]),
        "output_dir": output,
        "max_length": work.longest,
        "max_steps": work.steps,
        "per_device_train_batch_size": work.samples_per_batch,
        "gradient_accumulation_steps": work.batches_per_step,
        "dataloader_shuffle": False,
        "learning_rate": work.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": work.max_grad_norm,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "device": "cpu",
        **own,
        **packing,
    }


def main() -> None:
    """Train as ``work.json`` in the given folder says (``packed``: by token budget); print losses and seconds."""
    folder, packs = Path(sys.argv[1]), sys.argv[2] == "packed"
    work, clock = Work.read(folder), StepClock()
    with tempfile.TemporaryDirectory() as output:
        parsed = TRAINERS[work.objective].parse(arguments(folder, work, f"{output}/run", packs=packs))
        with open_launch(parsed, host=HOST) as launch:
            rows = Rows(work, clock)
            build_run(launch, objective_of(work.objective, parsed), lambda tokenizer: (rows, None)).train()
        records = read_json_lines(Path(output) / "run" / "metrics.jsonl")
        losses = [record[LOSSES[work.objective]] for record in records if LOSSES[work.objective] in record]
    versions = {"paddle": paddle.__version__}
    print(json.dumps({"losses": losses, "seconds": clock.seconds(work.steps), "versions": versions}))


if __name__ == "__main__":
    main()
