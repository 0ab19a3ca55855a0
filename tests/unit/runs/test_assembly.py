"""How long a run is, when an epoch ends, and which of two evaluations is better."""

from types import SimpleNamespace

import pytest

from alignment.arguments.keys.training import TrainingArguments
from alignment.data.loader import BatchLoader
from alignment.errors import DataError
from alignment.parallel.roles import RoleRanks
from alignment.parallel.topology import Topology
from alignment.runs import assembly
from alignment.runs.assembly import Horizon, build_best, build_learner, stream_batches
from alignment.training.optimizers import AdamSettings
from alignment.training.schedules import Schedule
from tests.tiny_models import tiny_score


def _training(**keys):
    return TrainingArguments(output_dir="out", **keys)


def test_an_epoch_ends_with_its_last_batch():
    batches = stream_batches(BatchLoader(list(range(5)), batch_size=2, seed=0))
    assert [next(batches)[1] for _ in range(6)] == [False, False, True] * 2


def test_a_fraction_of_an_epoch_is_rounded_up_and_max_steps_wins():
    assert Horizon.of(_training(num_train_epochs=1.5), 3, "data") == Horizon(total_updates=5, updates_per_epoch=3)
    assert Horizon.of(_training(num_train_epochs=1.5, max_steps=2), 3, "data").total_updates == 2
    assert Horizon.of(_training(num_train_epochs=2), 1, "data").total_updates == 2


def test_an_epoch_without_an_update_is_refused():
    with pytest.raises(DataError, match="train_datasets: an epoch has no update"):
        Horizon.of(_training(), 0, "train_datasets")


@pytest.mark.parametrize(
    ("keys", "metric", "greater"),
    [
        ({}, "eval/reward", True),
        ({"metric_for_best_model": "loss"}, "eval/loss", False),
        ({"metric_for_best_model": "eval_loss"}, "eval/loss", False),
        ({"metric_for_best_model": "eval/kl_divergence", "greater_is_better": False}, "eval/kl_divergence", False),
        ({"metric_for_best_model": "loss", "greater_is_better": True}, "eval/loss", True),
    ],
)
def test_a_smaller_loss_is_better_and_the_user_has_the_last_word(keys, metric, greater):
    best = build_best(_training(load_best_model_at_end=True, **keys), default="reward", keep=lambda: None)
    assert (best.metric, best.greater_is_better) == (metric, greater)
    assert build_best(_training(**keys), default="reward", keep=lambda: None) is None


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_state_of_a_half_precision_model_has_a_master_for_every_weight_and_its_part(dtype):
    model = tiny_score(dtype=dtype)
    start = SimpleNamespace(
        ranks_of=lambda role: RoleRanks(topology=Topology(device="cpu")),
        parsed=SimpleNamespace(parallel=SimpleNamespace(offloaded=())),
    )
    optimizer = build_learner(start, "reward", model, _training(), total_updates=4)._optimizer
    names = {name for name, _ in model.named_parameters()}
    masters = {key.removesuffix("/master") for key in optimizer.state() if key.endswith("/master")}
    assert masters == (names - {"score.weight"} if dtype == "bfloat16" else set())
    assert {name: list(part.shape) for name, part in optimizer.state_parts().items()} == {
        name: parameter.shape for name, parameter in model.named_parameters()
    }


def test_the_optimizer_of_a_cut_model_knows_its_parts_and_masters(monkeypatch):
    """What ``shard_model`` returns goes to the optimizer name by name, and to the learner whole."""
    made = {}
    shards = SimpleNamespace(parameters={"w": "slice"}, parts={"w": "rows 0 to 3"}, masters={"w"})
    monkeypatch.setattr(assembly, "shard_model", lambda model, topology: shards)
    monkeypatch.setattr(assembly, "build_runner", lambda model, topology: ("runner", model, topology))
    monkeypatch.setattr(assembly, "NamedAdamW", lambda parameters, adam, **named: (parameters, adam, named))

    def learner(name, runner, **named):
        made.update(named, name=name, runner=runner)
        return SimpleNamespace(offload=lambda **kinds: made.update(offload=kinds))

    monkeypatch.setattr(assembly, "Learner", learner)
    start = SimpleNamespace(
        ranks_of=lambda role: RoleRanks(topology="topology"),
        parsed=SimpleNamespace(parallel=SimpleNamespace(offloaded=("optimizer",))),
    )
    model = SimpleNamespace(model=SimpleNamespace(adapter=None), config=SimpleNamespace(experts=None))
    training = _training(
        learning_rate=2e-3, min_learning_rate=1e-4, warmup_steps=2, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-6,
        weight_decay=0.1, max_grad_norm=0.5, recompute=True, recompute_granularity="core_attn",
        lr_scheduler_type="cosine",
    )  # fmt: skip
    build_learner(start, "policy", model, training, total_updates=9)
    adam = AdamSettings(beta1=0.8, beta2=0.9, epsilon=1e-6, weight_decay=0.1)
    assert made["optimizer"] == (shards.parameters, adam, {"parts": shards.parts, "masters": shards.masters})
    assert made["schedule"] == Schedule(kind="cosine", peak=2e-3, floor=1e-4, warmup_updates=2, decay_updates=9)
    assert (made["name"], made["runner"]) == ("policy", ("runner", model, "topology"))
    assert (made["shards"], made["max_grad_norm"]) == (shards, 0.5)
    assert made["offload"] == {"model": False, "optimizer": True}
    assert (model.model.recompute, model.model.recompute_granularity) == (True, "core_attn")


@pytest.mark.parametrize(
    ("keys", "updates", "said"),
    [
        ({"warmup_ratio": 0.03}, 1, ["the learning rate rises from 0 over 1 update, and the run has 1 update"]),
        ({"warmup_steps": 5}, 3, ["the learning rate rises from 0 over 5 updates, and the run has 3 updates"]),
        ({"warmup_steps": 2}, 3, []),
        ({"warmup_ratio": 0.03, "lr_scheduler_type": "constant"}, 1, []),
        ({"warmup_ratio": 0.03, "do_train": False}, 1, []),
    ],
)
@pytest.mark.parametrize("name", ["policy", "critic"])
def test_a_run_no_longer_than_its_warm_up_is_told(name, keys, updates, said, monkeypatch, caplog):
    for part in ("shard_model", "NamedAdamW", "build_runner"):
        monkeypatch.setattr(
            assembly, part, lambda *given, **named: SimpleNamespace(parameters=[], parts={}, masters={})
        )
    monkeypatch.setattr(assembly, "Learner", lambda *given, **named: SimpleNamespace(offload=lambda **kinds: None))
    start = SimpleNamespace(
        ranks_of=lambda role: RoleRanks(topology="topology"),
        parsed=SimpleNamespace(parallel=SimpleNamespace(offloaded=())),
    )
    model = SimpleNamespace(model=SimpleNamespace(adapter=None), config=SimpleNamespace(experts=None))
    build_learner(start, name, model, _training(learning_rate=2e-3, **keys), total_updates=updates)
    key = "warmup_steps" if "warmup_steps" in keys else {"policy": "", "critic": "critic_"}[name] + "warmup_ratio"
    rest = f": it never reaches 0.002. For a shorter warm-up lower {key}"
    assert caplog.messages == [f"{name}: {line}{rest}" for line in said]
