"""The rollouts of ``rollout.py`` by ``generate`` of transformers on torch, in float32 and bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers
from rollout_worker import Generate, Job, serve
from transformers import AutoModelForCausalLM, GenerationConfig


def prepare(job: Job) -> Callable[[str], Generate]:
    """Load the weights."""
    torch.set_num_threads(job.threads)

    def build(variant: str) -> Generate:
        folder = Path(job.folder) / "hub"
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, variant), attn_implementation="sdpa")
        model.eval()

        def generate(prompts: np.ndarray, limits: Sequence[int]) -> np.ndarray:
            ids, wanted = torch.from_numpy(prompts), max(limits)
            options = GenerationConfig(
                max_new_tokens=wanted, min_new_tokens=wanted, do_sample=False, eos_token_id=None, pad_token_id=0
            )
            with torch.inference_mode():
                tokens = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=options)
            return tokens[:, prompts.shape[1] :].numpy()

        return generate

    return build


if __name__ == "__main__":
    serve({"torch": torch.__version__, "transformers": transformers.__version__}, prepare)
