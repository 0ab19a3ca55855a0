"""The list of reward sources: what names and objects mean, and which lists are refused."""

import json
from pathlib import Path

import pytest

from alignment.arguments.rewards.entries import find_faults, read_entries, resolve_entries, with_weights
from alignment.errors import ArgumentError, UserError
from alignment.trainers.ppo.arguments import parse_ppo_arguments

AS_WRITTEN = {"model": lambda name: f"/models/{name}", "function": lambda name: f"/code/{name}"}


def entries(written):
    text = written if isinstance(written, str) else json.dumps(written)
    return read_entries(resolve_entries(text, AS_WRITTEN))


def test_a_name_is_a_model_a_function_or_the_address_of_a_service():
    found = entries("org/helpful, mine.py:short, package.module:polite, http://localhost:9000/score")
    assert [(entry.kind, entry.name, entry.log_as) for entry in found] == [
        ("model", "/models/org/helpful", "helpful"),
        ("function", "/code/mine.py:short", "short"),
        ("function", "/code/package.module:polite", "polite"),
        ("service", "http://localhost:9000/score", "localhost"),
    ]
    assert {entry.weight for entry in found} == {1.0}


def test_an_object_says_more_and_a_cost_is_subtracted():
    options = {"limit": 3}
    written = [
        {"name": "runs/a/reward", "weight": 0.5, "template": "none", "batch_size": 2, "normalize": True},
        {"name": "runs/b/reward", "kind": "cost", "weight": 2, "log_as": "harm"},
        {"name": "mine.py:short", "options": options, "weight": -1},
    ]
    model, cost, function = entries(written)
    assert (model.log_as, model.template, model.batch_size, model.normalize) == ("a", "none", 2, True)
    assert [entry.factor for entry in (model, cost, function)] == [0.5, -2, -1]
    assert cost.log_as == "harm" and function.options == options
    assert entries(written[0]) == (model,), "one object is a list of one"


def test_resolved_entries_resolve_to_themselves():
    text = resolve_entries("org/helpful, mine.py:short, http://localhost:9000/score", AS_WRITTEN)
    assert resolve_entries(text, {}) == text


def test_a_folder_says_that_its_model_compares(tmp_path):
    for name, record in (("run/reward", {"pairwise_comparison": {"turn": "{content}"}}), ("scores", {}), ("odd", [])):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps(record))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    places = {"model": lambda name: str(tmp_path / name)}
    names = ["run", "run/reward", "scores", "odd", "broken", "hub/name"]
    written = [{"name": name} for name in names] + [{"name": "scores", "kind": "pairwise", "options": {"turn": "x"}}]
    found = read_entries(resolve_entries(json.dumps(written), places))
    assert [entry.kind for entry in found] == ["pairwise"] * 2 + ["model"] * 4 + ["pairwise"]
    assert found[-1].options == {"turn": "x"} and all(entry.is_model and entry.factor == 1 for entry in found)


def test_sources_of_one_name_are_told_apart():
    assert [entry.log_as for entry in entries(["a/reward", "x/a", "a.py:a"])] == ["a", "a_2", "a_3"]


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ([], "names no source"),
        ("[1", "must be valid JSON"),
        ([3], "source 1 of 1: expected a name or an object"),
        (["a", {"weight": 1}], "source 2 of 2: it has no name"),
        ([{"name": "a", "wieght": 2}], "unknown field 'wieght'; did you mean 'weight'"),
        ([{"name": "a", "weight": "much"}], "weight must be a finite number, got 'much'"),
        ([{"name": "a", "weight": True}], "weight must be a finite number, got True"),
        ([{"name": "a", "kind": "judge"}], "kind must be one of model, cost, pairwise, function, service, got 'judge'"),
        ([{"name": "a", "kind": "service"}], "must begin with http"),
        ([{"name": "m:f", "template": "none"}], "template is for a model, and 'm:f' is a function"),
        ([{"name": "a", "options": {"k": 1}}], "options is for a function or a pairwise model, and 'a' is a model"),
        ([{"name": "a", "template": "User: "}], "a text with one {}"),
        ([{"name": "a", "batch_size": 0}], "batch_size must be a whole number >= 1"),
        ([{"name": "a", "log_as": "a b"}], "letters, digits and underscores"),
    ],
)
def test_what_is_wrong_with_a_source_is_said_with_its_number(written, says):
    with pytest.raises(ArgumentError) as caught:
        entries(written)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("written", "weights", "says"),
    [
        ("a,b", (1.0,), "reward_weights has 1 numbers and reward_sources 2 sources"),
        ("a,b", (0.0, 0.0), "all weights of reward_sources are 0"),
        ([{"name": "a"}, {"name": "a", "weight": -1}], None, "2 times in reward_sources, and 1 and -1 cancel"),
        ("a,a", None, "named 2 times in reward_sources, and 1 and 1 add up to 2: name it once"),
        ([{"name": "a"}, {"name": "a", "kind": "cost"}], None, "1 and -1 cancel"),
        ([{"name": "a", "kind": "cost", "weight": -1}], None, "a cost is subtracted, so its weight is positive"),
        ([{"name": "a", "weight": 2}], (1.0,), "both in reward_weights and in reward_sources"),
    ],
)  # fmt: skip
def test_weights_that_leave_no_reward_or_contradict_each_other(written, weights, says):
    faults = list(find_faults(entries(written), weights))
    assert len(faults) == 1 and says in faults[0]


def test_weights_of_a_list_of_their_own():
    assert [entry.factor for entry in with_weights(entries("a,m:f"), (2.0, -0.5))] == [2.0, -0.5]
    assert not list(find_faults(entries("a,m:f"), (1.0, 0.0))), "a weight of 0 only logs a source"


def parse(tmp_path, **keys):
    for name in ("policy", "helpful", "harmless"):
        (tmp_path / name).mkdir(exist_ok=True)
    made = {
        "train_datasets": "packing-prompts/train",
        "actor_model_name_or_path": str(tmp_path / "policy"),
        "output_dir": str(tmp_path / "out"),
        **keys,
    }
    (tmp_path / "run.json").write_text(json.dumps(made))
    return parse_ppo_arguments([str(tmp_path / "run.json")])


def test_openrlhfs_comma_list_and_trls_weights(tmp_path):
    parsed = parse(tmp_path, reward_pretrain="helpful,harmless", reward_weights=[1, 0.5])
    source = parsed.reward_source
    assert [(entry.name, entry.weight) for entry in source.entries] == [
        (str(tmp_path / "helpful"), 1),
        (str(tmp_path / "harmless"), 0.5),
    ]
    assert source.first_model == str(tmp_path / "helpful"), "the critic starts from the first"


def test_the_first_model_that_is_no_cost_is_the_critics(tmp_path):
    written = [{"name": "harmless", "kind": "cost"}, {"name": "helpful"}]
    assert parse(tmp_path, reward_sources=written).reward_source.first_model == str(tmp_path / "helpful")
    with pytest.raises(UserError, match="the critic needs reward_critic_model_name_or_path"):
        parse(tmp_path, reward_sources=["json:loads"])


def test_sources_are_read_before_anything_is_loaded(tmp_path):
    with pytest.raises(UserError, match="exactly one of .*reward_sources; got reward_function, reward_sources"):
        parse(tmp_path, reward_sources="helpful", reward_function="json:loads")
    with pytest.raises(UserError, match=r"source 1 of 1: reward model folder '\./absent' does not exist"):
        parse(tmp_path, reward_sources=["./absent"])
    inside = tmp_path / "out" / "reward"
    inside.mkdir(parents=True)
    with pytest.raises(UserError, match=f"overwrite_output_dir=true would delete {inside} of reward_sources"):
        parse(tmp_path, reward_sources=[str(inside)], overwrite_output_dir=True)
    assert Path(inside).exists()
