"""What every registered on-policy algorithm promises, on the same small rollout of 3 prompts with 4 responses each."""

from __future__ import annotations

import dataclasses

import numpy as np
import paddle
import pytest

from alignment.algorithms.on_policy.registered import ALGORITHMS
from alignment.algorithms.on_policy.spec import Judged, OnPolicyAlgorithm
from alignment.errors import ArgumentError
from alignment.trainers.ppo.arguments import parse_ppo_arguments

LENGTHS = np.array([7, 5, 1, 4, 3, 6, 2, 7, 5, 1, 4, 6])
ROWS, WIDTH, SAMPLES = len(LENGTHS), 7, 4
MASK = (np.arange(WIDTH) < LENGTHS[:, None]).astype(np.float64)
IDS = np.repeat([5, 2, 9], SAMPLES)
GRIDS = ("old_logprobs", "ref_logprobs", "values", "logprobs", "entropy", "cost_values")
FIELDS = ("old_logprobs", "ref_logprobs", "values")
RESULTS = ("advantages", "returns", "rewards", "kl_rewards", "cost_returns")
GIVEN = ["--train_datasets", "p", "--actor_model_name_or_path", "a", "--reward_model_name_or_path", "r"]


@pytest.fixture(params=list(ALGORITHMS))
def algorithm(request) -> OnPolicyAlgorithm:
    return ALGORITHMS[request.param]


@pytest.fixture
def options(algorithm):
    """Its numbers, with every kind of KL and the whitening that it has."""
    names = {field.name for field in dataclasses.fields(algorithm.hyperparameters)}
    chosen = {"kl_coeff": 0.1, "kl_loss_coeff": 0.2, "use_kl_loss": True, "normalize_advantage": True, "loss_length": 9}
    return {"hyperparameters": algorithm.hyperparameters(**{k: v for k, v in chosen.items() if k in names})}


def draw() -> dict[str, np.ndarray]:
    """Return the arrays of a rollout by name."""
    generator = np.random.default_rng(0)
    arrays = {name: generator.standard_normal((ROWS, WIDTH)) for name in GRIDS}
    scores, costs = generator.standard_normal((2, ROWS))
    baseline = np.linspace(-1, 1, ROWS)
    return {**arrays, "scores": scores, "costs": costs, "baseline_scores": baseline, "mask": MASK, "group_ids": IDS}


def estimate(algorithm, options, arrays):
    """Return its estimate with everything in numpy."""
    wanted = {name: paddle.to_tensor(arrays[name]) for name in Judged._fields if name in arrays}
    left_out = ({"values"} if not algorithm.needs_critic else set()) | _of_cost(algorithm)
    judged = Judged(**{**wanted, **dict.fromkeys(left_out)}, multiplier=1.5 if algorithm.needs_cost else None)
    found = algorithm.estimate(judged, **options)
    return found._replace(**{k: v.numpy() for k, v in found._asdict().items() if isinstance(v, paddle.Tensor)})


def _of_cost(algorithm):
    return set() if algorithm.needs_cost else {"costs", "cost_values"}


def losses(algorithm, options, arrays):
    """Return (policy loss, value loss or None, gradients by the log-probs and by the values)."""
    made = estimate(algorithm, options, arrays)
    fields = {name: paddle.to_tensor(arrays[name]) for name in FIELDS}
    fields |= {"advantages": paddle.to_tensor(made.advantages), "response_mask": paddle.to_tensor(arrays["mask"])}
    if made.returns is not None:
        fields["returns"] = paddle.to_tensor(made.returns)
    units = {"denominator": algorithm.count_units(arrays["mask"], **options)}
    inputs = [paddle.to_tensor(arrays["logprobs"], stop_gradient=False)]
    found = [algorithm.policy_loss(inputs[0], fields, **options, **units)]
    if algorithm.value_loss is not None:
        inputs.append(paddle.to_tensor(arrays["values"] + 0.5, stop_gradient=False))
        found.append(algorithm.value_loss(inputs[1], fields, **options, **units))
    for loss in found:
        loss.value.backward()
    return [float(loss.value) for loss in found], [x.grad.numpy() for x in inputs]


def spoilt(arrays):
    """Return ``arrays`` with large garbage under the mask."""
    garbage = 1e6 * np.random.default_rng(99).standard_normal((ROWS, WIDTH))
    return {name: np.where(arrays["mask"] > 0, x, garbage) if name in GRIDS else x for name, x in arrays.items()}


def widened(arrays):
    """Return ``arrays`` with three more columns of padding."""
    return {
        name: np.pad(x, ((0, 0), (0, 3)), constant_values=0 if name == "mask" else 7) if x.ndim == 2 else x
        for name, x in arrays.items()
    }


def close(one, other):
    np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def test_it_says_what_it_is(algorithm):
    assert algorithm.name == algorithm.name.lower() and algorithm.title and algorithm.min_group_size >= 1
    assert ALGORITHMS[algorithm.name] is algorithm
    assert isinstance(algorithm.needs_reference(algorithm.hyperparameters()), bool)
    assert algorithm.needs_critic == (algorithm.value_loss is not None)


def test_hyperparameters_are_frozen_and_have_defaults(algorithm):
    hyperparameters = algorithm.hyperparameters()
    for field in dataclasses.fields(hyperparameters):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(hyperparameters, field.name, None)


def test_a_run_gets_its_keys_and_only_those(algorithm):
    samples = str(algorithm.min_group_size)
    cost = ["--cost_model_name_or_path", "c"] if algorithm.needs_cost else []
    argv = [*GIVEN, "--output_dir", "o", "--rl_algorithm", algorithm.name, "--num_return_sequences", samples]
    parsed = parse_ppo_arguments([*argv, *cost])
    assert parsed.algorithm == algorithm.hyperparameters()
    assert ("critic" in parsed.groups) == algorithm.needs_critic == ("critic" in _names(algorithm))
    assert ("cost" in parsed.groups) == algorithm.needs_cost == ("cost_critic" in _names(algorithm))
    if algorithm.needs_cost:
        with pytest.raises(ArgumentError, match="missing required argument 'cost_model_name_or_path'"):
            parse_ppo_arguments(argv)


def _names(algorithm):
    return [role.name for role in algorithm.critics]


def test_a_smaller_group_than_its_minimum_is_refused(algorithm):
    argv = [*GIVEN, "--output_dir", "o", "--rl_algorithm", algorithm.name, "--num_return_sequences"]
    for samples in range(1, algorithm.min_group_size):
        with pytest.raises(
            ArgumentError, match=f"num_return_sequences={samples} .*at least {algorithm.min_group_size}"
        ):
            parse_ppo_arguments([*argv, str(samples)])


def test_shapes_and_zeros_under_the_mask(algorithm, options):
    found = estimate(algorithm, options, draw())
    assert (found.returns is not None) == algorithm.needs_critic
    assert (found.cost_returns is not None) == algorithm.needs_cost
    for name in RESULTS:
        grid = getattr(found, name)
        if grid is not None:
            assert grid.shape == (ROWS, WIDTH), name
            assert not (grid * (1 - MASK)).any(), name
            assert np.isfinite(grid).all() and (grid * MASK).any(), name


@pytest.mark.parametrize("change", [spoilt, widened])
def test_what_lies_under_the_mask_changes_nothing(algorithm, options, change):
    clean, other = (estimate(algorithm, options, arrays) for arrays in (draw(), change(draw())))
    for name in RESULTS:
        one, two = getattr(clean, name), getattr(other, name)
        assert (one is None) == (two is None)
        if one is not None:
            close(two[:, :WIDTH], one)
    assert clean.metrics == other.metrics
    values, gradients = losses(algorithm, options, draw())
    others, other_gradients = losses(algorithm, options, change(draw()))
    close(others, values)
    for gradient, other_gradient in zip(gradients, other_gradients, strict=True):
        close(other_gradient[:, :WIDTH], gradient)


def test_gradients_stay_inside_the_mask(algorithm, options):
    _, gradients = losses(algorithm, options, draw())
    for gradient in gradients:
        assert not (gradient * (1 - MASK)).any() and (gradient * MASK).any()


def test_rows_may_come_in_any_order(algorithm, options):
    arrays, order = draw(), np.random.default_rng(4).permutation(ROWS)
    moved = {name: x[order] for name, x in arrays.items()}
    one, other = estimate(algorithm, options, arrays), estimate(algorithm, options, moved)
    close(other.advantages, one.advantages[order])
    close(losses(algorithm, options, moved)[0], losses(algorithm, options, arrays)[0])


def test_names_of_groups_mean_nothing(algorithm, options):
    arrays = draw()
    renamed = {**arrays, "group_ids": np.repeat([0, 1, 2], SAMPLES)}
    close(estimate(algorithm, options, renamed).advantages, estimate(algorithm, options, arrays).advantages)


def first_gradient(algorithm, weights):
    """Return (gradient of the loss before the first step, advantages / units), if each row's tokens weigh the same.

    The ratio is 1 and the KL to the reference 0.
    """
    arrays = draw()
    arrays |= {"logprobs": arrays["old_logprobs"], "ref_logprobs": arrays["old_logprobs"]}
    options = {"hyperparameters": algorithm.hyperparameters(loss_length=9, kl_coeff=0.0)}
    advantages = estimate(algorithm, options, arrays).advantages
    grids = {"old_logprobs": arrays["logprobs"], "ref_logprobs": arrays["logprobs"], "advantages": advantages}
    grids |= {"response_mask": MASK, "importance_weights": weights}
    fields = {name: paddle.to_tensor(grid) for name, grid in grids.items()}
    units = algorithm.count_units(MASK, **options)
    logprobs = paddle.to_tensor(arrays["logprobs"], stop_gradient=False)
    algorithm.policy_loss(logprobs, fields, denominator=units, **options).value.backward()
    reduction = options["hyperparameters"].policy_loss_reduction
    lengths = {"token": 1.0, "sequence": LENGTHS[:, None], "constant": 9}[reduction]
    return logprobs.grad.numpy(), advantages / (units * lengths)


def test_before_the_first_step_a_token_gains_by_its_advantage(algorithm):
    """Whatever the ratio, its clip or gate: the gradient is that of minus the mean of advantage times log-prob."""
    gradient, advantages = first_gradient(algorithm, np.ones(MASK.shape))
    close(gradient, -advantages)


@pytest.mark.parametrize("reduction", ["token", "sequence", "constant"])
def test_shares_of_micro_batches_add_up(algorithm, reduction):
    arrays = draw()
    options = {"hyperparameters": algorithm.hyperparameters(policy_loss_reduction=reduction, loss_length=9)}
    made = estimate(algorithm, options, arrays)
    grids = {name: arrays[name] for name in FIELDS} | {"advantages": made.advantages, "response_mask": MASK}
    units = {"denominator": algorithm.count_units(MASK, **options)}

    def loss(rows):
        fields = {name: paddle.to_tensor(grid[rows]) for name, grid in grids.items()}
        return float(
            algorithm.policy_loss(paddle.to_tensor(arrays["logprobs"][rows]), fields, **options, **units).value
        )

    assert loss(slice(0, 5)) + loss(slice(5, ROWS)) == pytest.approx(loss(slice(0, ROWS)), rel=1e-9)


def test_engines_weights_multiply_the_loss_of_each_token(algorithm):
    weights = np.repeat(np.random.default_rng(6).uniform(0.5, 2, (ROWS, 1)), WIDTH, axis=1)
    gradient, advantages = first_gradient(algorithm, weights)
    close(gradient, -advantages * weights)


def test_a_given_coefficient_takes_the_place_of_the_argument(algorithm):
    arrays = draw()
    adapted = estimate(algorithm, {"hyperparameters": algorithm.hyperparameters(), "kl_coeff": 0.5}, arrays)
    fixed = estimate(algorithm, {"hyperparameters": algorithm.hyperparameters(kl_coeff=0.5)}, arrays)
    close(adapted.rewards, fixed.rewards)
    close(adapted.advantages, fixed.advantages)
    close(adapted.kl_rewards.sum(), -0.5 * ((arrays["old_logprobs"] - arrays["ref_logprobs"]) * MASK).sum())
