"""The trainers of DPO and reward models, as they run, on prepared token ids: each update waits for its turn.

The run's own loop asks for the samples of an update where the one before is done; that is where this side answers and
reads the next command (``ppo_step_worker.py``).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(1, str(ROOT))

from alignment.device.host import prepare_host  # noqa: E402

HOST = prepare_host()  # before the first import of Paddle, which reads these settings once

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from ppo_step_memory import reset_peak  # noqa: E402
from ppo_step_paddle_parts import PACKING  # noqa: E402
from ppo_step_pairs import START, PairWork  # noqa: E402
from ppo_step_worker import answer_of, answer_with, take_output  # noqa: E402

from alignment.data.loader import BatchLoader  # noqa: E402
from alignment.ops.native.library import load_core  # noqa: E402
from alignment.runs.launch import open_launch  # noqa: E402
from alignment.runs.offline.train import build_run  # noqa: E402
from alignment.telemetry.jsonl import read_json_lines  # noqa: E402
from alignment.trainers.objectives import objective_of  # noqa: E402
from alignment.trainers.registered import TRAINERS  # noqa: E402

ENDLESS = 1 << 20
LOSSES = {"rm": "preference/loss", "dpo": "dpo/loss"}


class Turns(BatchLoader):
    """Yields the samples of the step that a command names; the update is made when the next one is asked for."""

    def __init__(self, work: PairWork, output: Path, answers: TextIO) -> None:
        super().__init__(samples_of(work, 0), batch_size=work.num_pairs, seed=work.seed, shuffle=False)
        self._work, self._output, self._answers = work, output, answers

    def iterate(self, epochs: int | None = None) -> Iterator[list[dict[str, Any]]]:
        """See ``BatchLoader``; ends with the input."""
        for line in sys.stdin:
            command = json.loads(line)
            samples = samples_of(self._work, command["step"])
            if command.get("memory"):
                reset_peak()
            began = clocks()
            yield samples
            seconds = [now - before for now, before in zip(clocks(), began, strict=True)]
            answer_with(self._answers, answer_of(command, {"step": seconds}, self._numbers()))

    def _numbers(self) -> dict[str, Any]:
        """Return the loss and the gradient norm of the update before."""
        name = LOSSES[self._work.objective]
        record = [row for row in read_json_lines(self._output / "metrics.jsonl") if name in row][-1]
        return {"loss": [record[name]], "gradient_norm": record[f"{START[self._work.objective]}/gradient_norm"]}


def samples_of(work: PairWork, step: int) -> list[dict[str, Any]]:
    """Return the pairs of ``step`` as the datasets of this package encode them."""
    return [
        {
            "better_input_ids": np.concatenate([pair.prompt, pair.better]),
            "worse_input_ids": np.concatenate([pair.prompt, pair.worse]),
            "prompt_length": len(pair.prompt),
        }
        for pair in work.pairs(step)
    ]


def clocks() -> tuple[float, float]:
    """Return [wall, CPU] seconds."""
    return time.perf_counter(), time.process_time()


def arguments(folder: Path, work: PairWork) -> dict[str, Any]:
    """Return the trainer's arguments."""
    return {
        "train_datasets": "jsonl",  # not read: the rows are given
        "model_name_or_path": str(folder / START[work.objective]),
        "output_dir": str(folder / "run"),
        "max_length": int(work.prompt_length + work.answer_lengths.max()),
        "max_steps": ENDLESS,
        "per_device_train_batch_size": work.pairs_per_batch,
        "gradient_accumulation_steps": work.num_pairs // work.pairs_per_batch,
        "dataloader_shuffle": False,
        "learning_rate": work.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": work.max_grad_norm,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "device": "cpu",
        **({"beta": work.beta} if work.objective == "dpo" else {}),
        **PACKING,
        **work.overrides,
    }


def main() -> None:
    """Train until the input ends."""
    folder, answers = Path(sys.argv[1]), take_output()
    work, core = PairWork.read(folder), load_core()
    parsed = TRAINERS[work.objective].parse(arguments(folder, work))
    answer_with(
        answers,
        {
            "paddle": paddle.__version__,
            "host": HOST,
            "training operators": f"compiled, {core.isa}" if core else "Paddle's",
        },
    )
    with open_launch(parsed, host=HOST) as launch:
        samples = samples_of(work, 0)
        run = build_run(launch, objective_of(work.objective, parsed), lambda tokenizer: (samples, None))
        replace(run, loader=Turns(work, folder / "run", answers)).train()


if __name__ == "__main__":
    main()
