"""The runs of ``learning.py`` by TRL: GRPO by its current release, PPO by the last one that has it (1.12).

Started with the peer's interpreter: ``python learning_trl.py RUN...``. Where settings differ, the fast ones: no
gradient checkpointing, the fused AdamW, float32. The reward model scores exactly the sampled tokens.
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from learning_work import Curve, read_settings
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback


class Points(TrainerCallback):
    """Keeps the policy every few steps."""

    def __init__(self, curve: Curve, policy: Any, every: int) -> None:
        self._curve, self._policy, self._every = curve, policy, every

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count from here."""
        self._curve.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Keep the policy if due."""
        if state.global_step % self._every == 0 or state.global_step == state.max_steps:
            with self._curve.point(state.global_step) as point:
                point["policy"] = str(self._curve.folder / f"policy-{state.global_step}")
                self._policy.save_pretrained(point["policy"])


def read_prompts(data: Path, tokenizer: Any) -> list[str]:
    """Return the training prompts as the template renders them."""
    rows = [json.loads(line) for line in (data / "prompts_train.jsonl").open(encoding="utf-8")]
    turns = [[{"role": "user", "content": row["input"]}] for row in rows]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def build_grpo(settings: dict[str, Any], curve: Curve, common: dict[str, Any]) -> tuple[Any, Any]:
    """Return TRL's GRPO trainer and its policy."""
    from trl import GRPOConfig, GRPOTrainer

    data, tokenizer, policy = load(settings)
    scorer = load_scorer(settings)

    def score(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        curve.tokens += sum(map(len, completion_ids))
        rows = [tokenizer(p)["input_ids"] + ids for p, ids in zip(prompts, completion_ids, strict=True)]
        batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt", padding_side="right")
        with torch.no_grad():
            return scorer(**batch).logits[:, 0].tolist()

    arguments = GRPOConfig(
        **common,
        per_device_train_batch_size=settings["rows"],
        max_steps=settings["rollouts"],
        max_completion_length=16,
        log_completions=False,
        **settings["arguments"],
    )
    rows = datasets.Dataset.from_dict({"prompt": read_prompts(data, tokenizer)})
    trainer = GRPOTrainer(
        model=policy, reward_funcs=[score], args=arguments, train_dataset=rows, processing_class=tokenizer
    )
    return trainer, policy


def build_ppo(settings: dict[str, Any], curve: Curve, common: dict[str, Any]) -> tuple[Any, Any]:
    """Return TRL's PPO trainer and its policy."""
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    data, tokenizer, policy = load(settings)
    tokenizer.padding_side = "left"
    truncate = getattr(ppo_trainer.truncate_response, "original", ppo_trainer.truncate_response)

    def counted(stop: int, pad: int, responses: torch.Tensor) -> torch.Tensor:
        answers = truncate(stop, pad, responses)
        curve.tokens += int((answers != pad).sum())
        return answers

    counted.original = truncate
    ppo_trainer.truncate_response = counted
    arguments = PPOConfig(
        **common,
        per_device_train_batch_size=settings["rows"],
        total_episodes=settings["rows"] * settings["rollouts"],
        local_rollout_forward_batch_size=settings["rows"],
        num_sample_generations=0,
        response_length=16,
        stop_token="eos",
        temperature=1.0,
        **settings["arguments"],
    )
    prompts = read_prompts(data, tokenizer)
    rows = datasets.Dataset.from_list([{"input_ids": tokenizer(prompt)["input_ids"]} for prompt in prompts])
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=load(settings)[2],
        reward_model=load_scorer(settings),
        value_model=load_scorer(settings),
        train_dataset=rows,
        eval_dataset=rows.select(range(8)),
    )
    return trainer, policy


def load(settings: dict[str, Any]) -> tuple[Path, Any, Any]:
    """Return the folder of the data, the tokenizer and the policy to start from."""
    tokenizer = AutoTokenizer.from_pretrained(settings["policy"])
    return Path(settings["data"]), tokenizer, AutoModelForCausalLM.from_pretrained(settings["policy"], dtype="float32")


def load_scorer(settings: dict[str, Any]) -> Any:
    """Return the reward model."""
    return AutoModelForSequenceClassification.from_pretrained(settings["reward"], num_labels=1, dtype="float32").eval()


def train(folder: Path) -> None:
    """Train as the settings in ``folder`` say."""
    settings, curve = read_settings(folder), Curve(folder)
    common = {
        "output_dir": str(folder / "trl"),
        "optim": "adamw_torch_fused",
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "logging_steps": 1000,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": settings["seed"],
    }
    build = {"ppo": build_ppo, "grpo": build_grpo}[settings["algorithm"]]
    trainer, policy = build(settings, curve, common)
    trainer.add_callback(Points(curve, policy, settings["every"]))
    gc.collect()
    gc.freeze()  # TRL's PPO collects garbage several times a step, which would take most of its time here
    trainer.train()
    curve.write()


def main() -> None:
    """Train all given runs, one after the other."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    for name in sys.argv[1:]:
        train(Path(name))


if __name__ == "__main__":
    main()
