"""What a user does first, in one process, for an emulator: ``python first_commands.py FOLDER``.

Runs doctor, one update of SFT, reward model and PPO (with each engine) and chat on a model of two layers, and writes
what came of them to ``FOLDER/found.json``. Every step is named on stdout before it begins. Nothing is started by a
command: a child of an emulated process would run on the real processor; forked ones are emulated.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from alignment.device.host import prepare_host

TOKENIZER = Path(__file__).parents[2] / "alignment" / "data" / "shipped" / "packing" / "tokenizer"
MODEL = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
}  # fmt: skip
UPDATE = {
    "chat_template": "tokenizer", "max_length": 64, "max_steps": 1, "logging_steps": 1, "save_strategy": "no",
    "report_to": "none", "disable_tqdm": True, "learning_rate": 1e-3, "seed": 7, "per_device_train_batch_size": 8,
}  # fmt: skip
PROMPTS = {
    "train_datasets": "packing-prompts/train:8/-1", "per_device_prompt_batch_size": 4, "num_return_sequences": 2,
    "max_dec_len": 8,
}  # fmt: skip
ENGINES = {
    "fused": {"use_fusemt": True, "use_native_ops": True},
    "eager": {"use_fusemt": False, "use_native_ops": False},
}


def main(folder: Path) -> None:
    """Run everything; what is not expected is an exception."""
    host = prepare_host()
    doctor = run_doctor()
    # Paddle's handler of signals waits for ever under qemu.
    importlib.import_module("alignment.parallel.comms.leave").end_quietly()
    kernels = importlib.import_module("alignment.ops.native.library").find_core()
    found = {
        "host": host,
        "doctor": doctor,
        "kernels": kernels.core and kernels.core.isa,
        "updates": run_updates(folder),
        "answer": run_chat(folder),
        "fused_rms_norm": run_fused_norm(),
    }
    (folder / "found.json").write_text(json.dumps(found), encoding="utf-8")


def step(name: str) -> None:
    """Say what begins: the last line names what a signal ended."""
    print(f"--- {name}", flush=True)


def run_doctor() -> dict[str, Any]:
    """Return the exit status of doctor and what it printed."""
    step("doctor")
    doctor = importlib.import_module("alignment.commands.doctor")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = doctor.print_findings(doctor.examine())
    print(printed.getvalue(), flush=True)
    return {"status": status, "printed": printed.getvalue()}


def run_updates(folder: Path) -> dict[str, dict[str, float]]:
    """Train each stage for one update; return the metrics by run."""
    (folder / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
    start = {"model_config_name_or_path": folder, "tokenizer_name_or_path": TOKENIZER}
    policy = folder / "sft" / "policy"
    found = {
        "sft": train("sft", folder / "sft", {**start, "train_datasets": "packing-sft/train:16/-1"}),
        "rm": train(
            "rm",
            folder / "rm",
            {"model_name_or_path": policy, "train_datasets": "packing-preference/train:16/-1"},
        ),
    }
    models = {"actor_model_name_or_path": policy, "reward_model_name_or_path": folder / "rm" / "reward"}
    for name, engine in ENGINES.items():
        found[f"ppo, {name}"] = train("ppo", folder / f"ppo-{name}", {**PROMPTS, **models, **engine})
    return found


def train(trainer: str, output: Path, arguments: dict[str, Any]) -> dict[str, float]:
    """Run a trainer in this process and return the numbers of its last record."""
    step(output.name)
    path = output.with_suffix(".json")
    given = {**UPDATE, **arguments, "output_dir": output}
    path.write_text(json.dumps({key: str(v) if isinstance(v, Path) else v for key, v in given.items()}))
    importlib.import_module("alignment.trainers.registered").TRAINERS[trainer].train([str(path)], host="emulated")
    record = json.loads((output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return {key: value for key, value in record.items() if not key.startswith(("time/", "memory/"))}


def run_chat(folder: Path) -> str:
    """Return what chat prints for a prompt."""
    step("chat")
    chat, printed = importlib.import_module("alignment.commands.chat"), io.StringIO()
    words = ["--prompt", "pack rope lamp map", "--max_new_tokens", "8", "--reward_model", str(folder / "rm")]
    with contextlib.redirect_stdout(printed):
        chat.main([str(folder / "ppo-fused"), *words])
    return printed.getvalue()


def run_fused_norm() -> str | None:
    """Return how the kernel ends that began all this, in a child: an emulator that lets it through shows nothing."""
    step("fused_rms_norm, which is to die")
    children = importlib.import_module("alignment.selfcheck.children")
    [_, (_, problem)] = children.try_in_children(lambda: [("norm", fused_norm)], start="start", timeout=120.0)
    return problem


def fused_norm() -> None:
    """Call the kernel of Paddle that assumes AVX-512."""
    import paddle
    from paddle.incubate.nn.functional import fused_rms_norm

    paddle.disable_signal_handler()
    fused_rms_norm(paddle.ones([3, 64]), paddle.ones([64]), None, 1e-6, 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
