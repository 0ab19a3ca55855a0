"""What a process with bfloat16 on its CPU is asked for: operators and the outputs of saved models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle

from alignment.models.folders.hub import load_causal_lm, load_score_model
from alignment.records import TokenBatch


def outputs(folders: list[Path], rows: list[np.ndarray]) -> list[np.ndarray]:
    """Return by folder the logits (a score model: the end scores) of ``rows``, computed in bfloat16."""
    return [(_logits if folder.name == "policy" else _scores)(folder, rows) for folder in folders]


def _logits(folder: Path, rows: list[np.ndarray]) -> np.ndarray:
    model = load_causal_lm(folder, dtype="bfloat16")
    model.eval()
    with paddle.no_grad():
        return np.concatenate([model(row[None])[0].astype("float32").numpy() for row in rows])


def _scores(folder: Path, rows: list[np.ndarray]) -> np.ndarray:
    model = load_score_model(folder, dtype="bfloat16")
    model.eval()
    batch = TokenBatch.build(rows, [np.empty(0, np.int64)] * len(rows))
    with paddle.no_grad():
        return model.read_end_scores(batch).numpy()


def product(x: np.ndarray, w: np.ndarray) -> dict[str, Any]:
    """Return x w of bfloat16 matrices, its dtype, and the gradients of its sum weighted by itself."""
    x, w = (paddle.to_tensor(a, dtype="bfloat16", stop_gradient=False) for a in (x, w))
    y = paddle.matmul(x, w)
    (y * y.detach()).sum().backward()
    dtypes = {str(tensor.dtype) for tensor in (y, x.grad, w.grad)}
    total = paddle.zeros([2], "bfloat16").add_(paddle.to_tensor([1.0, 2**-9], dtype="bfloat16"))
    found = {"y": y, "dx": x.grad, "dw": w.grad, "total": total, "mixed": total + paddle.ones([2])}
    return {"dtypes": dtypes, **{name: tensor.astype("float32").numpy() for name, tensor in found.items()}}
