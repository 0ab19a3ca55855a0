"""The runs of ``offline.py`` by TRL's trainers, on token ids prepared as ours; started with the peer's interpreter.

Where settings differ, the fast ones: no gradient checkpointing, the fused AdamW, no padding beyond the micro-batch.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
import trl
from offline_work import IGNORED, WEIGHTS, StepClock, Work
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

TRAINERS = {
    "sft": (trl.SFTTrainer, trl.SFTConfig),
    "rm": (trl.RewardTrainer, trl.RewardConfig),
    "dpo": (trl.DPOTrainer, trl.DPOConfig),
    "kto": (KTOTrainer, KTOConfig),
}


def rows_of(work: Work) -> datasets.Dataset:
    """Return the samples with the columns that TRL's collators read."""
    rows, samples, size = [], work.samples(), work.peer_batches[0]
    for number, (prompt, answers) in enumerate(samples):
        if work.objective == "kto":
            before = samples[number - 1 if number % size else number + size - 1][1][0]
            row = {"prompt_ids": prompt, "completion_ids": answers[0], "KL_completion_ids": before}
            rows.append({**row, "label": number % 2 == 0})
        elif work.objective == "sft":
            rows.append({"input_ids": prompt + answers[0], "labels": [IGNORED] * len(prompt) + answers[0]})
        elif work.objective == "rm":
            rows.append({"chosen_ids": prompt + answers[0], "rejected_ids": prompt + answers[1]})
        else:
            rows.append({"prompt_ids": prompt, "chosen_ids": answers[0], "rejected_ids": answers[1]})
    return datasets.Dataset.from_list(rows)


def build(folder: Path, work: Work, output: str) -> Any:
    """Return TRL's trainer, which records the loss of every step and when it began."""
    base, config = TRAINERS[work.objective]
    source = folder / WEIGHTS[work.objective]

    class Recording(base):
        """The trainer with prepared rows and unrounded losses."""

        losses: list[float] = []  # noqa: RUF012
        clock = StepClock()

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            if self.state.global_step == len(self.losses):
                self.losses.append(0.0)
                self.clock.begin()
            loss = super().training_step(*args, **kwargs)
            self.losses[-1] += float(loss)
            return loss

    own = {"beta": work.beta} if work.objective in ("dpo", "kto") else {}
    arguments = config(
        output_dir=output,
        per_device_train_batch_size=work.peer_batches[0],
        gradient_accumulation_steps=work.peer_batches[1],
        max_steps=work.steps,
        learning_rate=work.learning_rate,
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=work.max_grad_norm,
        optim="adamw_torch_fused",
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        max_length=None,
        logging_steps=work.steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=1,
        **own,
    )
    if work.objective == "rm":
        model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source)
    return Recording(model=model, args=arguments, train_dataset=rows_of(work), processing_class=tokenizer)


def main() -> None:
    """Train as ``work.json`` in the given folder says; print losses and seconds as JSON."""
    folder = Path(sys.argv[1])
    work = Work.read(folder)
    torch.set_num_threads(work.threads)
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as output:
        trainer = build(folder, work, output)
        trainer.train()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "trl": trl.__version__}
    found = {"losses": trainer.losses, "seconds": trainer.clock.seconds(work.steps), "versions": versions}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
