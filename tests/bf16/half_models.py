"""What a process with bfloat16 on its CPU is asked for: operators and the outputs of saved models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from alignment.models.decoder.logprobs import policy_logprobs
from alignment.models.decoder.split_vocabulary import VocabularyShare, split_logprobs
from alignment.models.folders.hub import load_causal_lm, load_score_model
from alignment.ops import pieces
from alignment.ops.embedding import embedding
from alignment.ops.token_logprobs import head_logprobs
from alignment.parallel.comms.group import ALONE
from alignment.records import TokenBatch
from tests.bf16.bf16_runs import is_causal


def outputs(folders: list[Path], rows: list[np.ndarray]) -> list[np.ndarray]:
    """Return by folder the logits (a score model: the end scores) of ``rows``, computed in bfloat16."""
    return [(_logits if is_causal(folder) else _scores)(folder, rows) for folder in folders]


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


def head(case: dict[str, np.ndarray], piece_rows: int, **options: Any) -> list[np.ndarray]:
    """Return log-probs, entropies and the gradients of states and head (bfloat16) of a weighted sum of both.

    ``piece_rows``: tokens whose logits are made together.
    """
    hidden, weight = (
        paddle.to_tensor(case[name], dtype="bfloat16", stop_gradient=False) for name in ("hidden", "head")
    )
    targets, slopes = paddle.to_tensor(case["targets"]), paddle.to_tensor(case["slopes"])
    pieces.LOGIT_BYTES = pieces.DEVICE_LOGIT_BYTES = 4 * case["vocab"] * piece_rows
    found = []
    for compute in (head_logprobs, partial(split_logprobs, share=VocabularyShare(ALONE, 0))):
        logprobs, entropies = compute(hidden, weight, targets, with_entropy=True, **options)
        grads = paddle.grad((logprobs * slopes + entropies).sum(), [hidden, weight])
        assert {str(x.dtype) for x in grads} == {"paddle.bfloat16"} and logprobs.dtype == paddle.float32
        found.append([x.astype("float32").numpy() for x in (logprobs, entropies, *grads)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=0.01, atol=1e-4)
    return found[0]


def heads(asked: list[tuple]) -> list[list[np.ndarray]]:
    """Return ``head`` of every (case, rows of a piece, transposed, temperature)."""
    return [head(case, rows, transposed=swapped, temperature=divisor) for case, rows, swapped, divisor in asked]


def logprob_gaps(folder: Path, prompts: list[np.ndarray], dtype: str, temperature: float) -> np.ndarray:
    """Return the differences of engine and trainer in the log-probs of what the engine samples, token by token."""
    model = load_causal_lm(folder, dtype=dtype)
    model.eval()
    engine = EagerEngine(model)
    engine.load_weights(None, 0)
    options = GenerationOptions(max_new_tokens=32, temperature=temperature)
    answers = engine.generate(prompts, options, seed=1, sequence_ids=range(len(prompts)))
    rows = [np.concatenate([prompt, answer.token_ids]) for prompt, answer in zip(prompts, answers, strict=True)]
    batch = TokenBatch.build(rows, [np.arange(len(p), len(row)) for p, row in zip(prompts, rows, strict=True)])
    with paddle.no_grad():
        logprobs, _ = policy_logprobs(model, batch, temperature=temperature, with_entropy=False)
    return np.abs(logprobs.numpy() - np.concatenate([answer.logprobs for answer in answers]))


def embedding_gradient(ids: np.ndarray, gradient: np.ndarray, num_rows: int) -> dict[str, np.ndarray]:
    """Return the gradient of a bfloat16 matrix by ``embedding`` and by Paddle's operator, from ``gradient`` [M, H]."""
    weight = paddle.zeros([num_rows, gradient.shape[1]], "bfloat16")
    weight.stop_gradient = False
    slopes = paddle.to_tensor(gradient).astype("bfloat16")
    tokens = paddle.to_tensor(ids)
    outs = {"ours": embedding(tokens, weight), "in bfloat16": paddle.nn.functional.embedding(tokens, weight)}
    assert {str(out.dtype) for out in outs.values()} == {"paddle.bfloat16"}
    return {
        name: paddle.grad(out, weight, grad_outputs=slopes)[0].astype("float32").numpy() for name, out in outs.items()
    }
