"""Rows beyond the old context of a small Phi-3, each with the angles of its own length, against transformers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.errors import UserError
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.capabilities import cuda_length_obstacle
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import FusedSettings
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


def engine_of(model, kind, **options):
    """Return an engine with the weights of ``model``; the fused one has two slots for long and short prompts."""
    if kind == "fused" and CPU_KERNELS.obstacle(model.config) is not None:
        pytest.skip(CPU_KERNELS.obstacle(model.config))
    settings = FusedSettings(num_slots=2, max_rows=9, kv_memory="1MiB", **options)
    engine = EagerEngine(model) if kind == "eager" else FusedEngine(model, settings)
    engine.load_weights(None, 0)
    return engine


@pytest.mark.parametrize("kind", ["eager", "fused"])
def test_long_and_short_prompts_side_by_side_are_answered_as_there(torch, pair, kind):
    theirs, ours = pair
    lengths = (LIMIT + 1, LIMIT - 8, 3, LIMIT + 1)
    prompts = [row[:length].tolist() for row, length in zip(IDS[[0, 1, 2, 0]], lengths, strict=True)]
    options = GenerationOptions(max_new_tokens=8, do_sample=False)
    answers = engine_of(ours, kind).generate(prompts, options, seed=0, sequence_ids=[0, 1, 2, 3])
    for prompt, answer in zip(prompts, answers, strict=True):
        row = [*prompt, *answer.token_ids.tolist()]
        logits = torch.tensor(logits_there(torch, theirs, np.array(row)))[len(prompt) - 1 : -1]
        assert answer.token_ids.tolist() == logits.argmax(-1).tolist()
        wanted = logits.log_softmax(-1).max(-1).values.numpy()
        np.testing.assert_allclose(answer.logprobs, wanted, atol=1e-5)


@pytest.mark.parametrize(("weight_type", "allowed"), [("bfloat16", 0.05), ("int8", 0.2)])
def test_long_and_short_answers_by_narrow_weights_have_the_log_probs_of_there(torch, pair, weight_type, allowed):
    """Other angles would change them by 0.46 nats in the median."""
    theirs, ours = pair
    engine = engine_of(ours, "fused", speculative_tokens=4, weight_type=weight_type, kv_type="bfloat16")
    prompts = [IDS[0, : LIMIT + 1].tolist(), IDS[1, : LIMIT - 8].tolist(), IDS[2, :3].tolist()]
    options = GenerationOptions(max_new_tokens=8, do_sample=False)
    for prompt, answer in zip(prompts, engine.generate(prompts, options, seed=0, sequence_ids=[0, 1, 2]), strict=True):
        row = np.array([*prompt, *answer.token_ids.tolist()])
        logprobs = torch.tensor(logits_there(torch, theirs, row)).log_softmax(-1).numpy()[len(prompt) - 1 : -1]
        gaps = answer.logprobs - logprobs[np.arange(len(answer.token_ids)), answer.token_ids]
        assert abs(gaps).max() < allowed, gaps


@pytest.mark.parametrize("kind", ["eager", "fused"])
def test_an_answer_that_would_cross_the_old_context_is_refused(pair, kind):
    engine = engine_of(pair[1], kind)
    message = f"prompt 0 has {LIMIT} tokens and its answer may have 1; together at most 32, original_max_position_emb"
    with pytest.raises(UserError, match=message):
        engine.generate([IDS[0, :LIMIT]], GenerationOptions(max_new_tokens=1), seed=0, sequence_ids=[0])


def test_a_tokens_log_prob_changes_when_its_row_crosses_the_old_context(torch, pair):
    """Why such answers are refused: transformers draws from the first of these, training scores the second."""
    row, theirs = IDS[0, : LIMIT + 1], pair[0]
    drawn, scored = (
        torch.tensor(logits_there(torch, theirs, row[:length])[: LIMIT - 1]).log_softmax(-1).numpy()
        for length in (LIMIT, LIMIT + 1)
    )
    gaps = abs(drawn - scored)[np.arange(LIMIT - 1), row[1:LIMIT]]
    assert np.median(gaps) > 0.01, gaps


def test_the_cuda_kernels_run_what_stays_below_it(pair):
    config = pair[1].config
    assert [config.longest_answered(length) for length in (1, LIMIT, LIMIT + 1)] == [LIMIT, LIMIT, 64]
    assert cuda_length_obstacle(config, LIMIT) is None
    assert cuda_length_obstacle(config, LIMIT + 1).endswith("max_position_embeddings=32 only, max_length=33")
