"""What every registered offline objective promises: its numbers depend on its rows, and on nothing around them."""

from __future__ import annotations

import dataclasses
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from alignment.algorithms.preference.losses import LOSSES, readers
from alignment.architecture.layout import Layout
from alignment.data.encoded.store import count_tokens
from alignment.metrics import reduce_metrics
from alignment.models.decoder.gating import GatingOptions
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.decoder.split_divergence import DivergenceKind
from alignment.parallel.build_runner import build_runner
from alignment.parallel.micro_batches import MicroBatches
from alignment.parallel.topology import Topology
from alignment.runs.offline.gating import freeze_below
from alignment.runs.offline.labelled import baseline_of, open_baseline
from alignment.runs.offline.models import JUDGE, POLICY
from alignment.runs.offline.objective import EvaluationInputs
from alignment.runs.offline.reference import FIELD, Reference
from alignment.runs.offline.teacher import Teacher
from alignment.runs.offline.train import build_task, surveying
from alignment.trainers.objectives import OBJECTIVES, PAIRWISE, SCORE_OBJECTIVES
from alignment.training.objectives import read_split_answers
from tests.tiny_models import tiny_causal, tiny_score


def of_loss(name):
    """DPO's objective with one loss and the hyperparameters that it needs."""
    smoothing = {"label_smoothing": 0.1} if name in readers("label_smoothing") else {}
    dpo = OBJECTIVES["dpo"]
    return dataclasses.replace(dpo, hyperparameters=partial(dpo.hyperparameters, loss_type=(name,), **smoothing))


ROWS = {**OBJECTIVES, **SCORE_OBJECTIVES, **{f"dpo-{name}": of_loss(name) for name in LOSSES}}
ROWS["dpo-ld_alpha"] = dataclasses.replace(
    OBJECTIVES["dpo"],
    hyperparameters=partial(
        OBJECTIVES["dpo"].hyperparameters, loss_type=("sigmoid", "aot"), loss_weights=(1.0, 1.0), ld_alpha=0.25
    ),
)
SHAPE = {"vocab_size": 32, "hidden_size": 16, "max_position_embeddings": 64}


def _answers(rng, *, low, high):
    prompt = rng.integers(3, 32, rng.integers(1, 4))
    pair = [np.concatenate([prompt, rng.integers(3, 32, rng.integers(low, high)), [2]]) for _ in range(2)]
    return len(prompt), pair


def samples_of(objective, count=6, seed=3):
    """Samples as the objective's dataset encodes them, of unequal lengths."""
    rng, found = np.random.default_rng(seed), []
    for index in range(count):
        start, (first, second) = _answers(rng, low=1 + index % 3, high=8)
        labels = np.where(np.arange(len(first)) < start, -100, first)
        found.append(
            {
                "supervised": {"input_ids": first, "labels": labels},
                "binary preference": {
                    "input_ids": first, "prompt_length": start, "desirable": int(index in (0, 3, 4)),
                },
                "regression": {"input_ids": first, "labels": labels, "attributes": [index % 4 / 2 - 0.5]},
                "pairwise": {
                    "better_first_input_ids": np.concatenate([first, second[start:], [4]]),
                    "worse_first_input_ids": np.concatenate([second, first[start:], [5]]),
                    "extra_length": len(first) - len(second), "margin": None, "digest": 1,
                },
                "process reward": {
                    "input_ids": first, "prompt_length": start, "step_positions": np.array([start, len(first) - 1]),
                    "step_labels": [index % 2, 0.25],
                },
                "preference": {"better_input_ids": first, "worse_input_ids": second, "prompt_length": start},
                "safety preference": {
                    "safer_input_ids": first, "unsafer_input_ids": second, "prompt_length": start,
                    "safer_safety_sign": 1, "unsafer_safety_sign": -1,
                },
            }[objective.dataset.KIND]
        )  # fmt: skip
    return found


@pytest.fixture(params=ROWS)
def objective(request):
    return ROWS[request.param]


@pytest.fixture
def model(objective):
    if objective is not SCORE_OBJECTIVES["gating"]:
        make = tiny_causal if objective.model in (POLICY, JUDGE) else tiny_score
        return make(seed=1, std=0.2, **SHAPE)
    gating = GatingOptions(hidden_size=4, num_layers=1, length_penalties=(0.1, -0.2))
    made = tiny_score(ScoreOptions(labels=("a", "b"), gating=gating), seed=1, std=0.2, **SHAPE)
    freeze_below(made, "gating.")
    return made


def learn(objective, model, cut, *, reference=None, widen=0):
    """Return (loss, metrics, gradients) of one update whose micro-batches are ``cut``; ``widen`` adds padding."""
    hyperparameters = objective.hyperparameters and objective.hyperparameters()
    prepare = partial(compared, reference or (lambda batch: np.linspace(-3, -1, batch.num_rows)), objective)
    task = build_task(
        objective,
        hyperparameters,
        model=model,
        reference=teacher_of(objective) or Reference(prepare),
        measure=measured(objective, hyperparameters, prepare),
    )
    batches = [widened(task.make_batch(part), widen) for part in cut]
    runner = build_runner(model, Topology(device="cpu"))
    if objective.needs_reference or objective.needs_teacher:
        task.prepare(batches, runner)
    if task.measure:
        task.measure(batches, runner, range(sum(map(len, cut))), learns=True)
    made = task.make_objective(batches)
    losses = [made.loss(made.read(model, batch), batch) for batch in batches]
    for loss in losses:
        loss.value.backward()
    gradients = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    model.clear_gradients()
    return sum(float(loss.value) for loss in losses), reduce_metrics([loss.metrics for loss in losses]), gradients


def compared(reference, objective, batches, runner):
    """Add the reference's numbers; an objective that reads answers in two parts gets a quarter and the rest of them."""
    splits = objective.hyperparameters and objective.read_for(objective.hyperparameters()) is read_split_answers
    for batch in batches:
        numbers = reference(batch)
        parts = np.stack([0.25 * numbers, 0.75 * numbers], -1) if splits and numbers.ndim == 1 else numbers
        batch.fields[FIELD] = parts.astype(np.float32)


def measured(objective, hyperparameters, prepare):
    """What measures a whole update for an objective that needs it."""
    if survey := objective.make_survey and objective.make_survey(hyperparameters):
        return surveying(survey, objective.read_for(hyperparameters))
    baseline = objective.labels and baseline_of(objective.labels, hyperparameters)
    return open_baseline(objective, baseline, prepare, max_length=64, cut=MicroBatches(rows=2)) if baseline else None


def teacher_of(objective):
    """A wider model with fixed weights, if the objective learns from one."""
    if not objective.needs_teacher:
        return None
    wider = tiny_causal(seed=2, std=0.2, **{**SHAPE, "hidden_size": 24})
    return Teacher(build_runner(wider, Topology(device="cpu")), DivergenceKind(0.5, 1.5)).as_reference()


def widened(batch, columns):
    ids = np.pad(batch.input_ids, ((0, 0), (0, columns)), constant_values=7)
    return dataclasses.replace(batch, input_ids=ids)


def by_content(batch):
    """A stand-in for a reference whose number of a row depends on the row alone."""
    return -np.array([ids[:length].sum() for ids, length in zip(batch.input_ids, batch.lengths, strict=True)]) / 50.0


def nearly(found, expected):
    """Rounding is that of the largest number: an element near 0 is a sum of large ones."""
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-6 * max(1.0, np.abs(expected).max()))


def assert_same(found, expected):
    nearly(found[0], expected[0])
    assert found[1].keys() == expected[1].keys()
    for name in expected[1]:
        nearly(found[1][name], expected[1][name])
    assert found[2].keys() == expected[2].keys()
    for name in expected[2]:
        nearly(found[2][name], expected[2][name])


def test_its_loss_is_a_finite_number_that_every_weight_of_the_model_can_change(objective, model):
    value, metrics, gradients = learn(objective, model, [samples_of(objective)])
    assert np.isfinite([value, *metrics.values()]).all()
    assert f"{objective.name}/loss" in metrics
    assert gradients.keys() == {name for name, p in model.named_parameters() if not p.stop_gradient}
    assert all(np.isfinite(g).all() for g in gradients.values())


@pytest.mark.parametrize("cut", [(2, 4), (1, 1, 3, 1)])
def test_micro_batches_of_any_size_add_up_to_the_whole(objective, model, cut):
    samples, parts = samples_of(objective), []
    for size in cut:
        parts.append(samples[sum(map(len, parts)) :][:size])
    whole = learn(objective, model, [samples], reference=by_content)
    assert_same(learn(objective, model, parts, reference=by_content), whole)


@pytest.mark.parametrize("ranks", [1, 2])
def test_micro_batches_by_tokens_add_up_to_the_whole_within_the_budget(objective, model, ranks):
    samples = samples_of(objective)
    sizes = [*map(count_tokens, samples)]
    budget = 2 * max(sizes)
    groups = MicroBatches(rows=1, max_tokens=budget, ranks=ranks).divide(sizes)
    parts = [[samples[i] for i in group] for group in groups]
    tokens = [int(objective.make_batch(part).lengths.sum()) for part in parts]
    assert 1 < len(parts) < len(samples) and len(parts) % ranks == 0 and max(tokens) <= budget
    assert tokens == [sum(sizes[i] for i in group) for group in groups]
    whole = learn(objective, model, [samples], reference=by_content)
    assert_same(learn(objective, model, parts, reference=by_content), whole)


def test_the_order_of_samples_changes_nothing(objective, model):
    samples = samples_of(objective)
    mixed = [samples[i] for i in (4, 0, 3, 5, 1, 2)]
    whole = learn(objective, model, [samples], reference=by_content)
    assert_same(learn(objective, model, [mixed[:2], mixed[2:]], reference=by_content), whole)


def test_padding_changes_nothing(objective, model):
    cut = [samples_of(objective)]
    assert_same(
        learn(objective, model, cut, reference=by_content, widen=5), learn(objective, model, cut, reference=by_content)
    )


def test_only_responses_are_learned_from(objective, model):
    """What is read at other tokens has no gradient: every target lies behind its prompt."""
    batch = objective.make_batch(samples_of(objective))
    if objective is PAIRWISE:
        assert (batch.target_positions == batch.lengths - 1).all() and batch.num_targets == batch.num_rows
        return
    starts = [s.get("prompt_length") or int((s["labels"] == -100).sum()) for s in samples_of(objective)]
    rows = (starts * (batch.num_rows // len(starts)))[: batch.num_rows]
    assert (batch.target_positions >= np.array(rows)[batch.target_rows]).all()
    if batch.num_targets:
        expected = sum(length - start for length, start in zip(batch.lengths.tolist(), rows, strict=True))
        assert batch.num_targets == expected, "every token of a response, the end token too"


def test_it_counts_over_all_micro_batches(objective):
    samples = samples_of(objective)
    whole = objective.count([objective.make_batch(samples)])
    assert objective.count([objective.make_batch(samples[:1]), objective.make_batch(samples[1:])]) == whole


def test_a_policy_that_is_its_reference_has_gained_nothing(objective, model):
    if objective.needs_reference is None or not objective.needs_reference(objective.hyperparameters()):
        assert FIELD not in objective.make_batch(samples_of(objective)).fields
        return
    runner = build_runner(model, Topology(device="cpu"))
    read = objective.read_for(objective.hyperparameters())
    value, metrics, _ = learn(
        objective, model, [samples_of(objective)], reference=lambda batch: runner.forward([batch], read)[0]
    )
    assert metrics["rewards/margins"] == metrics["rewards/chosen"] == metrics["rewards/rejected"] == 0.0
    if objective.labels:
        assert value == 0.5 and metrics["kto/kl"] == 0.0
        return
    assert metrics["rewards/accuracies"] == 0.0, "a tie is wrong"
    if objective in OBJECTIVES.values():
        assert value == np.float32(np.log(2)), objective.name


def test_evaluation_leaves_the_weights_as_they_are(objective, model, evaluated):
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    metrics, _ = evaluated(objective, model)
    assert np.isfinite(list(metrics.values())).all()
    assert f"eval/{objective.best_metric}" in metrics and set(objective.cards) <= set(metrics)
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(parameter.numpy(), before[name])
        assert parameter.grad is None


@pytest.fixture
def evaluated(tmp_path):
    """Return a function: the evaluation of an objective on six samples, in micro-batches of four."""

    def evaluate(objective, model):
        prepare = partial(compared, by_content, objective)
        samples = samples_of(objective)
        training = SimpleNamespace(per_device_eval_batch_size=4)
        topology = Topology(device="cpu")
        offline = SimpleNamespace(attributes=("quality",), eval_datasets=None, step_aggregation="min")
        launch = SimpleNamespace(
            parsed=SimpleNamespace(training=training, offline=offline),
            output_dir=tmp_path,
            topology=SimpleNamespace(is_main=False, layout=Layout()),
        )
        hyperparameters = objective.hyperparameters and objective.hyperparameters()
        reference = teacher_of(objective) or Reference(prepare)
        inputs = EvaluationInputs(
            launch=launch,
            objective=objective,
            task=build_task(
                objective,
                hyperparameters,
                model=model,
                reference=reference,
                measure=measured(objective, hyperparameters, prepare),
            ),
            runner=build_runner(model, topology),
            tokenizer=SimpleNamespace(decode=lambda ids, **options: str(ids)),
            held_out=samples,
            training=samples[:2],
        )
        return objective.make_evaluation(inputs)()

    return evaluate


def test_a_sample_makes_the_rows_that_are_stated(objective):
    assert objective.make_batch(samples_of(objective)).num_rows == 6 * objective.rows_per_sample
