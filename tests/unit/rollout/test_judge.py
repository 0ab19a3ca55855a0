"""Numbers that are not finite are found by the judge, whoever gives them, and named after their model."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.errors import NotFiniteError, RewardError
from alignment.parallel.dense import DenseRunner
from alignment.records import Rollout
from alignment.rollout.judge import Judge, LoadedReference
from alignment.rollout.rewards.scorers import ModelScorer, Scores
from alignment.rollout.rewards.terms import ScoreTerms
from tests.tiny_models import tiny_causal, tiny_score

ROLLOUT = Rollout(
    prompts=(np.array([1, 5]), np.array([1, 6, 7])),
    responses=(np.array([3, 4, 2]), np.array([9, 2])),
    finish_reasons=("stop",) * 2,
    group_ids=np.arange(2),
)
HEAD = {"policy": "lm_head.weight", "reference": "lm_head.weight", "critic": "score.weight", "reward": "score.weight"}


def _sequences(rollout):
    return [np.concatenate(pair) for pair in zip(rollout.prompts, rollout.responses, strict=True)]


def _model(name):
    return tiny_causal(std=0.5) if HEAD[name] == "lm_head.weight" else tiny_score(seed=0, std=0.5)


def _judge(damaged=None, value=0.0):
    runners = {}
    for name, head in HEAD.items():
        model = _model(name)
        if name == damaged:
            weight = dict(model.named_parameters())[head]
            weight.set_value(paddle.full(weight.shape, value))
        runners[name] = DenseRunner(model)
    reward, runners["reference"] = runners.pop("reward"), LoadedReference(runner=runners["reference"])
    scorer = ModelScorer(reward, _sequences, rows_per_batch=2)
    return Judge(**runners, scorer=scorer, normalize=None, logprob_rows=2, value_rows=2, temperature=1.0)


def test_finite_numbers_pass():
    judged = _judge().measure(ROLLOUT)
    for grid in (judged.old_logprobs, judged.ref_logprobs, judged.values, judged.raw_scores):
        assert np.isfinite(grid).all() and grid.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("damaged", "model", "says"),
    [
        ("policy", "policy", "its log-probs are NaN or infinite for 5 of 5 response tokens"),
        ("reference", "reference", "its log-probs are NaN or infinite for 5 of 5 response tokens"),
        ("critic", "critic", "its values are NaN or infinite for 5 of 5 response tokens"),
        ("reward", "reward model", "(2 of 2 rows are NaN or infinite)"),
    ],
)
def test_the_model_whose_numbers_are_not_finite_is_named(damaged, model, says, value):
    with pytest.raises(NotFiniteError) as caught:
        _judge(damaged, value).measure(ROLLOUT)
    assert says in str(caught.value) and caught.value.model == model
    assert caught.value.is_trained == (damaged in {"policy", "critic"})


def test_the_error_reaches_other_processes_whole():
    error = NotFiniteError("its values are NaN", "critic", is_trained=False)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.model, copy.is_trained) == ("its values are NaN", "critic", False)


def _compare(values, valid, *, sampled_valid=None):
    """Compare two responses to each of two prompts with greedy ones of ``values``, at 0.5 less per token."""
    terms = ScoreTerms(numbers={"length": {"coeff": 0.5}}, limits=lambda rollout: np.array([9, 9]), decode=str)
    scorer = SimpleNamespace(score=lambda rollout: Scores(np.float32(values), valid))
    judge = Judge(
        policy=None, reference=None, critic=None, scorer=scorer, normalize=None, logprob_rows=1, value_rows=1,
        temperature=1.0, terms=terms,
    )  # fmt: skip
    sampled = Rollout(
        prompts=(np.array([1]),) * 4, responses=(np.array([2]),) * 4, finish_reasons=("stop",) * 4,
        group_ids=np.array([0, 0, 1, 1]), valid=sampled_valid,
    )  # fmt: skip
    return judge.compare_with(sampled, ROLLOUT)


def test_a_greedy_baseline_has_the_terms_of_the_rewards():
    """Greedy responses of 3 and 2 tokens: 5 - 1.5 and 7 - 1."""
    assert _compare([5, 7], None).baseline_scores.tolist() == [3.5, 3.5, 6, 6]


def test_baselines_that_failed_where_the_responses_did_not_are_an_error():
    first, second = np.array([True, True, False, False]), np.array([False, True])
    assert _compare([5, 7], second, sampled_valid=~first).valid.tolist() == [False, False, True, True]
    with pytest.raises(RewardError, match="its greedy response failed; nothing to learn from"):
        _compare([5, 7], second, sampled_valid=first)
