"""The rollouts of ``rollout.py`` by ``generate`` of paddlenlp, in an environment that has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import paddle
import paddlenlp
from paddlenlp.transformers import LlamaConfig, LlamaForCausalLM
from rollout_worker import Generate, Job, serve


def prepare(job: Job) -> Callable[[str], Generate]:
    """Load the weights."""
    config, weights = job.read_work()
    model = LlamaForCausalLM(LlamaConfig(**config, use_cache=True, use_flash_attention=False))
    for name, parameter in model.named_parameters():
        parameter.set_value(weights[name.replace("llama.", "model.", 1)])
    model.eval()

    def generate(prompts: np.ndarray, limits: Sequence[int]) -> np.ndarray:
        ids, wanted = paddle.to_tensor(prompts), max(limits)
        tokens, _ = model.generate(
            ids,
            attention_mask=paddle.ones_like(ids),
            decode_strategy="greedy_search",
            max_new_tokens=wanted,
            min_new_tokens=wanted,
            use_cache=True,
        )
        return tokens.numpy()

    return lambda variant: generate


if __name__ == "__main__":
    serve({"paddle": paddle.__version__, "paddlenlp": paddlenlp.__version__}, prepare)
