"""The rollout of ``rollout.py`` by ``generate`` of paddlenlp, in the interpreter that has it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import paddle
import paddlenlp
from paddlenlp.transformers import LlamaConfig, LlamaForCausalLM
from rollout_worker import read_work, serve


def main() -> None:
    """Load the work of the folder on the command line and serve."""
    config, weights = read_work(Path(sys.argv[1]))
    model = LlamaForCausalLM(LlamaConfig(**config, use_cache=True, use_flash_attention=False))
    for name, parameter in model.named_parameters():
        parameter.set_value(weights[name.replace("llama.", "model.", 1)])
    model.eval()

    def generate(prompts: np.ndarray, new_tokens: int) -> np.ndarray:
        ids = paddle.to_tensor(prompts)
        tokens, _ = model.generate(
            ids,
            attention_mask=paddle.ones_like(ids),
            decode_strategy="greedy_search",
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            use_cache=True,
        )
        return tokens.numpy()

    serve({"paddle": paddle.__version__, "paddlenlp": paddlenlp.__version__}, generate)


if __name__ == "__main__":
    main()
