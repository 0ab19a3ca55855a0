"""Token log-probs and entropies against the peers' numbers (../shared oracles, copied to tests/golden)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from alignment.ops.token_logprobs import head_logprobs, token_entropy, token_logprobs

GOLDEN = Path(__file__).parents[2] / "golden"


def records(peer, *names):
    return [r for r in json.loads((GOLDEN / f"{peer}.json").read_text()) if r["name"] in names]


def flatten(values, dtype, width=None):
    array = np.asarray(values, dtype)
    return paddle.to_tensor(array.reshape(-1) if width is None else array.reshape(-1, width))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-5)])
def test_safe_rlhf_gather_log_probabilities(dtype, tolerance):
    case = json.loads((GOLDEN / "safe_rlhf_vectors.json").read_text())["cases"]["gather_log_probabilities"]
    logits, output = np.asarray(case["logits"]), np.asarray(case["output"])
    ours = token_logprobs(flatten(logits, dtype, logits.shape[-1]), flatten(case["labels"], "int64"))
    np.testing.assert_allclose(ours.numpy(), output.reshape(-1), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("peer", ["openrlhf", "trl"])
def test_peer_logprobs(peer, dtype):
    cases = records(peer, "token_logp", "token_logp_temperature")
    assert cases
    for case in cases:
        logits = np.asarray(case["inputs"]["logits"])
        temperature = case["params"].get("temperature", 1.0)
        rows, targets = flatten(logits, dtype, logits.shape[-1]), flatten(case["inputs"]["labels"], "int64")
        expected = np.asarray(case["outputs"]["logp"]).reshape(-1)
        ours = token_logprobs(rows, targets, temperature=temperature)
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5, atol=1e-5)
        through_head, _ = head_logprobs(
            rows, paddle.eye(logits.shape[-1], dtype=dtype), targets, temperature=temperature
        )
        np.testing.assert_allclose(through_head.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("peer", ["openrlhf", "trl"])
def test_peer_entropy(peer, dtype):
    (case,) = records(peer, "entropy")
    logits = np.asarray(case["inputs"]["logits"])
    expected = np.asarray(case["outputs"]["entropy"]).reshape(-1)
    rows = flatten(logits, dtype, logits.shape[-1])
    np.testing.assert_allclose(token_entropy(rows).numpy(), expected, rtol=1e-5, atol=1e-5)
    _, entropy = head_logprobs(
        rows, paddle.eye(logits.shape[-1], dtype=dtype), paddle.zeros([rows.shape[0]], "int64"), with_entropy=True
    )
    np.testing.assert_allclose(entropy.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_temperature_of_the_entropy():
    logits = paddle.to_tensor([[0.0, 2.0]])
    share = 1 / (1 + np.exp(-1.0))
    expected = -share * np.log(share) - (1 - share) * np.log(1 - share)
    np.testing.assert_allclose(token_entropy(logits, temperature=2.0).numpy(), [expected], rtol=1e-5)
