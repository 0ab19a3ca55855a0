"""The rollouts of ``rollout.py`` by ``generate`` of transformers on torch, in float32 and bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import transformers
from rollout_worker import Generate, Job, read_linear, serve
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM


def prepare(job: Job) -> Callable[[str], Generate]:
    """Load the weights."""
    torch.set_num_threads(job.threads)
    config, weights = job.read_work()
    tensors = {name: torch.from_numpy(value) for name, value in read_linear(weights).items()}

    def build(variant: str) -> Generate:
        model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="sdpa"))
        model.load_state_dict(tensors)
        model.to(getattr(torch, variant)).eval()

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
