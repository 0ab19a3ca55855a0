"""Write a model with drawn weights for ``rollout.py``: ``python rollout_weights.py MODEL FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
from rollout_work import MODELS  # noqa: E402

from alignment.architecture.decoder_config import DecoderConfig  # noqa: E402
from alignment.models.decoder.decoder import CausalLM  # noqa: E402
from alignment.models.decoder.initialise import draw_weights  # noqa: E402
from alignment.models.folders.saving import save_model  # noqa: E402

STD = 0.05
"""Wider than usual, so that the likeliest token leads clearly and greedy answers can be compared."""


def main() -> None:
    """Write ``config.json``, ``weights.npz`` and, as a folder of transformers, ``hub``.

    What peers would fill in by different defaults is written out.
    """
    model, folder = sys.argv[1], Path(sys.argv[2])
    config = {
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "num_key_value_heads": MODELS[model]["num_attention_heads"],
        **MODELS[model],
    }
    decoder = CausalLM(DecoderConfig.from_dict(config))
    draw_weights(decoder, seed=0, std=STD)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_model(folder / "hub", decoder, None)
    np.savez(folder / "weights.npz", **{name: parameter.numpy() for name, parameter in decoder.named_parameters()})


if __name__ == "__main__":
    main()
