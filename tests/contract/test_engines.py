"""What every generation engine promises (``generation.engine.Engine``), whatever computes it."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from alignment.errors import NotFiniteError, UserError
from alignment.generation.eager.eager_engine import EagerEngine
from alignment.generation.engine import GenerationOptions, missing_features
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.models.decoder.initialise import draw_weights
from alignment.ops.native.library import find_core, load_core
from alignment.records import TokenBatch
from tests.emulated import emulated_kernels
from tests.tiny_models import tiny_causal

VOCABULARY = 40
SHAPE = dict(
    model_type="llama", vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=64,
)  # fmt: skip
SETTINGS = FusedSettings(num_slots=3, kv_memory="4MiB", max_length=64)
ENGINES = {
    "eager": EagerEngine,
    "fused": lambda model: FusedEngine(model, SETTINGS),
    "cuda": lambda model: FusedEngine(model, SETTINGS, kernels=emulated_kernels()),
}
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [5, 6, 7], [20, 21]]
STOPS = (3, 11)


@pytest.fixture
def model():
    model = tiny_causal(seed=1, std=0.2, **SHAPE)
    model.eval()
    return model


@pytest.fixture(params=ENGINES)
def engine(request, model):
    if request.param == "fused" and load_core() is None:
        pytest.skip(f"no kernel library: {find_core().reason}")
    engine = ENGINES[request.param](model)
    engine.load_weights(None, version=0)
    return engine


def answers(engine, *, prompts=PROMPTS, seed=1, ids=None, **options):
    options = GenerationOptions(**{"max_new_tokens": 12, "stop_token_ids": STOPS, **options})
    return engine.generate(prompts, options, seed=seed, sequence_ids=ids or list(range(len(prompts))))


def tokens(completions):
    return [completion.token_ids.tolist() for completion in completions]


def logprobs_of(model, sequence):
    """Return the model's log-probs [len(sequence), VOCABULARY] after each token."""
    batch = TokenBatch.build([np.array(sequence)], [np.empty(0, np.int64)])
    with paddle.no_grad():
        logits = model(batch.input_ids, lengths=batch.lengths)
    return paddle.nn.functional.log_softmax(logits[0].astype("float32"), axis=-1).numpy()


def test_greedy_tokens_are_the_likeliest_and_their_logprobs_the_models(engine, model):
    for prompt, found in zip(PROMPTS, answers(engine, do_sample=False), strict=True):
        table = logprobs_of(model, [*prompt, *found.token_ids.tolist()])
        for place, token in enumerate(found.token_ids.tolist()):
            row = table[len(prompt) - 1 + place]
            assert row[token] == pytest.approx(row.max(), abs=1e-5)
            assert found.logprobs[place] == pytest.approx(row[token], abs=1e-4)


def test_an_answer_ends_with_the_first_stop_token_or_at_its_limit(engine):
    for prompt, found in zip(PROMPTS, answers(engine, max_total_tokens=14), strict=True):
        ids = found.token_ids.tolist()
        assert not set(ids[:-1]) & set(STOPS)
        assert ids[-1] in STOPS or len(ids) == min(12, 14 - len(prompt))
        assert len(found.logprobs) == len(ids) and np.isfinite(found.logprobs).all()


def test_no_stop_token_before_the_least_length(engine):
    found = answers(engine, min_new_tokens=9, temperature=3.0)
    assert all(not set(ids[:9]) & set(STOPS) and len(ids) >= 9 for ids in tokens(found))


def test_an_answer_depends_on_its_prompt_seed_and_id_alone(engine):
    together = tokens(answers(engine, ids=[3, 1, 4, 7, 5]))
    alone = [tokens(answers(engine, prompts=[p], ids=[i]))[0] for p, i in zip(PROMPTS, [3, 1, 4, 7, 5], strict=True)]
    assert together == alone
    assert together[0] != together[3], "the same prompt with another id"
    assert tokens(answers(engine, seed=2, ids=[3, 1, 4, 7, 5])) != together


def test_a_draw_stays_within_its_filters(engine, model):
    for prompt, found in zip(PROMPTS, answers(engine, top_k=2, temperature=5.0), strict=True):
        table = logprobs_of(model, [*prompt, *found.token_ids.tolist()])
        for place, token in enumerate(found.token_ids.tolist()):
            row = table[len(prompt) - 1 + place]
            assert row[token] >= np.sort(row)[-2] - 1e-5


def test_new_weights_are_used_from_their_version_on(engine, model):
    before = tokens(answers(engine, do_sample=False))
    draw_weights(model, seed=2, std=0.2)
    engine.load_weights(None, version=1)
    after = tokens(answers(engine, do_sample=False))
    assert after != before
    engine.release()
    engine.load_weights(None, version=1)
    assert tokens(answers(engine, do_sample=False)) == after


@pytest.mark.parametrize(("prompt", "says"), [([], "empty"), ([VOCABULARY], "40"), ([-1], "-1"), ([5] * 64, "64")])
def test_what_cannot_be_continued_is_refused(engine, prompt, says):
    with pytest.raises(UserError, match=says):
        answers(engine, prompts=[[5], prompt])


def test_no_prompts_no_answers(engine):
    assert answers(engine, prompts=[]) == []


def test_damaged_weights_are_reported(engine, model):
    model.model.norm.weight.set_value(paddle.full_like(model.model.norm.weight, float("nan")))
    engine.load_weights(None, version=1)
    with pytest.raises(NotFiniteError):
        answers(engine)


def test_an_engine_names_what_it_can_compute(engine, model):
    assert missing_features(model.config, engine.features) == []
    assert missing_features(model.config, frozenset()) == sorted(model.config.features)
