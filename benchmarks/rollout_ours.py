"""The rollout of ``rollout.py`` by the eager engine of this package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from alignment.parallel.host import prepare_host  # noqa: E402

HOST = prepare_host()  # before the first import of Paddle, which reads these settings once

import numpy as np  # noqa: E402
import paddle  # noqa: E402
from rollout_worker import read_work, serve  # noqa: E402

from alignment.generation.eager_engine import EagerEngine  # noqa: E402
from alignment.generation.engine import GenerationOptions  # noqa: E402
from alignment.models.config import DecoderConfig  # noqa: E402
from alignment.models.decoder import CausalLM  # noqa: E402


def main() -> None:
    """Load the work of the folder on the command line and serve."""
    config, weights = read_work(Path(sys.argv[1]))
    model = CausalLM(DecoderConfig.from_dict(config))
    for name, parameter in model.named_parameters():
        parameter.set_value(weights[name])
    engine = EagerEngine(model)

    def generate(prompts: np.ndarray, new_tokens: int) -> np.ndarray:
        options = GenerationOptions(max_new_tokens=new_tokens, do_sample=False)
        engine.load_weights(None, 0)
        answers = engine.generate(list(prompts), options, seed=0, sequence_ids=range(len(prompts)))
        return np.stack([answer.token_ids for answer in answers])

    serve({"paddle": paddle.__version__, "host": HOST}, generate)


if __name__ == "__main__":
    main()
