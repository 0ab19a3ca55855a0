"""Time GRPO with ``rollout_ahead`` 0 and 1 in turn, on a random model: does sampling hide behind the updates?

Usage: ``python benchmarks/rollout_ahead.py FOLDER [TURNS]``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from alignment.device.host import prepare_host

prepare_host()

from alignment.models.folders.hub import random_causal_lm  # noqa: E402
from alignment.models.folders.saving import save_model  # noqa: E402
from alignment.models.tokenizer.tokenizer import load_tokenizer  # noqa: E402
from alignment.parity.subjects import SMALL_MODEL, TOKENIZER  # noqa: E402
from alignment.telemetry.jsonl import read_json_lines  # noqa: E402
from alignment.trainers.registered import TRAINERS  # noqa: E402

MODEL = SMALL_MODEL | {"hidden_size": 256, "intermediate_size": 688, "vocab_size": 64, "max_position_embeddings": 512}
REWARD = "def score(prompts, responses, labels):\n    return [float(len(response) % 7) for response in responses]\n"
KEYS = {
    "rl_algorithm": "grpo", "num_return_sequences": 4, "train_datasets": "packing-prompts/train:512/-1",
    "per_device_prompt_batch_size": 16, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 4,
    "max_dec_len": 96, "min_dec_len": 64, "max_length": 128, "max_steps": 8, "learning_rate": 1e-4, "logging_steps": 1,
    "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "device": "cpu", "chat_template": "tokenizer",
    "overwrite_output_dir": True,
}  # fmt: skip
STAGES = ("rollout", "score", "update")


def prepare(folder: Path) -> dict[str, str]:
    """Write the model and the reward function into ``folder``; return the keys that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MODEL))
    tokenizer = load_tokenizer(TOKENIZER)
    save_model(folder / "policy", random_causal_lm(folder / "config.json", seed=1, tokenizer=tokenizer), tokenizer)
    (folder / "reward.py").write_text(REWARD)
    return {"actor_model_name_or_path": str(folder / "policy"), "reward_function": f"{folder / 'reward.py'}:score"}


def measure(folder: Path, named: dict[str, str], ahead: int) -> str:
    """Return a line with the seconds of one run: of the loop and of its stages, and those of all processors."""
    output = folder / f"ahead-{ahead}"
    keys = {**KEYS, **named, "rollout_ahead": ahead, "output_dir": str(output)}
    (folder / "run.json").write_text(json.dumps(keys))
    cpu = time.process_time()
    TRAINERS["ppo"].train([str(folder / "run.json")], host="benchmark")
    cpu = time.process_time() - cpu
    records = list(read_json_lines(output / "metrics.jsonl"))
    seconds = {name: sum(record.get(f"time/{name}_seconds", 0) for record in records) for name in STAGES}
    stages = " | ".join(f"{value:.2f}" for value in seconds.values())
    return f"| {ahead} | {stages} | {sum(seconds.values()):.2f} | {cpu:.2f} |"


def main() -> None:
    """Print a table of both orders, in turn."""
    folder, turns = Path(sys.argv[1]).resolve(), int((sys.argv[2:] or ["2"])[0])
    named = prepare(folder)
    lines = [measure(folder, named, ahead) for _ in range(turns) for ahead in (0, 1)]
    print("| rollout_ahead | rollout s | score s | update s | loop s | processor s |")
    print("|---|---|---|---|---|---|", *lines, sep="\n")


if __name__ == "__main__":
    main()
