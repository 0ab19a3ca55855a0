"""Rows beyond the old context of a small Phi-3, each with the angles of its own length, against transformers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.errors import UserError
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.capabilities import length_obstacle
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.kernels import CPU_KERNELS
from alignment.models.decoder.forest import share_tokens
from alignment.models.folders.hub import load_causal_lm
from alignment.ops.native.selection import use_native_ops
from tests.interop.test_family_conformance import draw
from tests.peer_families import PEERS

pytestmark = pytest.mark.interop
LIMIT = 32
LENGTHS = (LIMIT + 9, LIMIT, LIMIT + 1, 5)
WIDTH = max(LENGTHS)
IDS = np.random.default_rng(0).integers(3, 61, (len(LENGTHS), WIDTH))
IDS[:, :4] = IDS[0, :4]


@pytest.fixture(scope="module")
def pair(torch, transformers, tmp_path_factory):
    """The model there and here."""
    folder = tmp_path_factory.mktemp("longrope")
    theirs = draw(torch, transformers, PEERS["phi3 longrope"])
    theirs.save_pretrained(folder)
    return theirs, load_causal_lm(folder).eval()


def logits_there(torch, model, row):
    """Return the logits [n, V] of one row, by itself."""
    with torch.no_grad():
        return model(torch.tensor(row[None]), use_cache=False).logits[0].numpy()


@pytest.mark.parametrize(("shares", "natively"), [(False, False), (True, True)])
def test_each_row_has_the_angles_of_its_own_length(torch, pair, shares, natively):
    theirs, ours = pair
    share_tokens(shares)
    use_native_ops(natively)
    try:
        with paddle.no_grad():
            found = ours(IDS, lengths=np.array(LENGTHS)).numpy()
    finally:
        share_tokens(False)
        use_native_ops(False)
    for row, length, logits in zip(IDS, LENGTHS, found, strict=True):
        wanted = logits_there(torch, theirs, row[:length])
        np.testing.assert_allclose(logits[:length], wanted, atol=1e-5 * max(1.0, abs(wanted).max()))


def test_gradients_of_a_long_row(torch, pair):
    theirs, ours = pair
    row = IDS[0]
    ours(row[None]).logsumexp(-1).sum().backward()
    theirs(torch.tensor(row[None]), use_cache=False).logits.logsumexp(-1).sum().backward()
    wanted = theirs.model.embed_tokens.weight.grad.numpy()
    found = ours.model.embed_tokens.weight.grad.numpy()
    ours.clear_gradients()
    np.testing.assert_allclose(found, wanted, atol=1e-4 * abs(wanted).max())


def test_long_and_short_prompts_side_by_side_are_answered_as_there(torch, pair):
    theirs, ours = pair
    prompts = [IDS[0, : LIMIT + 1].tolist(), IDS[1, : LIMIT - 8].tolist(), IDS[2, :3].tolist()]
    wanted = []
    for prompt in prompts:
        row = list(prompt)
        for _ in range(8):
            row.append(int(logits_there(torch, theirs, np.array(row))[-1].argmax()))
        wanted.append(row[len(prompt) :])
    engine = EagerEngine(ours)
    engine.load_weights(None, 0)
    options = GenerationOptions(max_new_tokens=8, do_sample=False)
    answers = engine.generate(prompts, options, seed=0, sequence_ids=[0, 1, 2])
    assert [answer.token_ids.tolist() for answer in answers] == wanted


def test_an_answer_that_would_cross_the_old_context_is_refused(pair):
    engine = EagerEngine(pair[1])
    engine.load_weights(None, 0)
    message = f"prompt 0 has {LIMIT} tokens and its answer may have 1; together at most 32, original_max_position_emb"
    with pytest.raises(UserError, match=message):
        engine.generate([IDS[0, :LIMIT]], GenerationOptions(max_new_tokens=1), seed=0, sequence_ids=[0])


def test_the_fused_engine_runs_what_stays_below_it(pair):
    config = pair[1].config
    assert (config.longest_generated, config.longest_sequence) == (LIMIT, 64)
    assert length_obstacle(config, LIMIT) is None
    assert length_obstacle(config, LIMIT + 1).endswith("original_max_position_embeddings=32 only, max_length=33")
    if CPU_KERNELS.obstacle(config) is None:
        engine = FusedEngine(pair[1])
        engine.load_weights(None, 0)
        with pytest.raises(UserError, match="together at most max_length=32"):
            engine.generate([IDS[0, : LIMIT + 1]], GenerationOptions(max_new_tokens=1), seed=0, sequence_ids=[0])
