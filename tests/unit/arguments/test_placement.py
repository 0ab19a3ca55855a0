"""Which ranks ``placement`` gives to which roles, and the message for every one that does not work."""

from __future__ import annotations

import json

import pytest

from alignment.architecture.layout import Layout
from alignment.arguments.parser import parse_arguments
from alignment.arguments.roles.openrlhf import translate_placement
from alignment.arguments.roles.placement import read_placement
from alignment.errors import ArgumentError
from alignment.runs.degrees import describe_roles, resolve_roles
from alignment.trainers.ppo.arguments import parse_ppo_arguments
from alignment.trainers.registered import TRAINERS

APART = {"policy": [0], "critic": [1], "reference": [2], "reward": [3]}


@pytest.fixture
def models(tmp_path, monkeypatch):
    for name in ("actor", "reward", "helpful", "polite"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return {
        "train_datasets": "packing-prompts/train",
        "actor_model_name_or_path": "actor",
        "reward_model_name_or_path": "reward",
        "output_dir": "output",
    }


@pytest.mark.parametrize(
    ("written", "ranks"),
    [
        ({"policy": [1, 0], "critic": [2]}, {"policy": (0, 1), "critic": (2,)}),
        ({"policy": 2, "critic": 1, "reference": 1}, {"policy": (0, 1), "critic": (2,), "reference": (3,)}),
        ({"policy": [1], "critic": 2}, {"policy": (1,), "critic": (0, 2)}),
        ({"reference": "policy", "policy": [3]}, {"reference": (3,), "policy": (3,)}),
    ],
)
def test_ranks_are_listed_counted_or_shared(written, ranks):
    assert {role: share.ranks for role, share in read_placement(json.dumps(written)).items()} == ranks


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[0, 1]", "is not an object of roles and ranks"),
        ({}, "is not an object of roles and ranks"),
        ({"policy": []}, r"policy has \[\]; expected ranks from 0"),
        ({"policy": [-1]}, r"policy has \[-1\]; expected ranks from 0"),
        ({"policy": 0}, "policy: the number of ranks is 0; give 1 or more"),
        ({"policy": [0, 0]}, r"policy names a rank twice: \[0, 0\]"),
        ({"policy": [0], "critic": "reward"}, "critic shares the ranks of 'reward', which has no ranks of its own"),
        ({"policy": "policy"}, "policy shares the ranks of 'policy', which has no ranks of its own"),
        ({"policy": {"ranks": [0, 1], "data_parallel_degree": 2}}, "policy is an object with ranks, data_parallel"),
        ({"policy": {"ranks": [0, 1], "tensor_parallel_degree": 0}}, "policy: tensor_parallel_degree is 0; give 1"),
        (
            {"policy": {"ranks": [0], "tensor_parallel_degree": 4}},
            "policy: tensor_parallel_degree is 4 on one rank, where",
        ),
        ({"policy": {"ranks": 1, "pipeline_parallel_degree": 2}}, "policy: pipeline_parallel_degree is 2 on one rank"),
        ({"policy": 10**12}, "policy: the number of ranks is 1000000000000; at most 1048576 can be given"),
        ('{"policy": [0], "policy": [1]}', "placement: 'policy' is given more than once in one object"),
    ],
)
def test_what_cannot_be_read_is_named(written, said):
    with pytest.raises(ArgumentError, match=said):
        read_placement(written if isinstance(written, str) else json.dumps(written))


@pytest.mark.parametrize(
    ("placement", "keys", "said"),
    [
        (APART, {"rl_algorithm": "grpo", "kl_loss_coeff": 0.1}, "critic has ranks, but rl_algorithm=grpo has none"),
        (APART, {"lora": True}, "reference has ranks, but with lora=true it is the policy without its adapter"),
        ({**APART, "cost": [0]}, {}, "cost has ranks, but rl_algorithm=ppo has none: leave cost out"),
        ({**APART, "critics": [0]}, {}, "no role 'critics' .allowed: policy, critic, reference, reward, rollout."),
        ({**APART, "value": [0]}, {}, "no role 'value' .allowed: [a-z, ]*.; it is called critic here"),
        ({**APART, "vllm": [0]}, {}, "no role 'vllm' .allowed: [a-z, ]*.; it is called rollout here"),
        ({"policy": [0], "critic": [1]}, {}, "reference, reward have no ranks; give a list of ranks or the name"),
        ({"critic": [0], "reference": [0], "reward": [0]}, {}, 'policy has no ranks; .*such as {"policy": .0.}'),
        (APART, {"eval_mode": "single"}, "eval_mode=single with placement"),
    ],
)
def test_roles_are_those_of_the_algorithm(models, placement, keys, said):
    with pytest.raises(ArgumentError, match=f"placement: {said}" if "eval_mode" not in keys else said):
        parse_ppo_arguments({**models, **keys, "placement": placement})


def test_each_of_several_reward_models_may_have_ranks(models):
    sources = {"reward_model_name_or_path": None, "reward_sources": "helpful,polite", "critic_init": "policy"}
    del models["reward_model_name_or_path"]
    del sources["reward_model_name_or_path"]
    parsed = parse_ppo_arguments({**models, **sources, "placement": {**APART, "polite": [2]}})
    assert resolve_roles(parsed, world_size=4)["polite"] == ((2,), Layout())


@pytest.mark.parametrize(
    ("world_size", "said"),
    [
        (3, r"placement: reward on rank 3, but the run has 3 process\(es\), ranks 0 to 2: launch 4 "),
        (6, "placement leaves rank 4, 5 of 6 without a role: give it one, or launch 4 process"),
    ],
)
def test_ranks_are_those_of_the_processes(models, world_size, said):
    parsed = parse_ppo_arguments({**models, "placement": APART})
    with pytest.raises(ArgumentError, match=said):
        resolve_roles(parsed, world_size=world_size)


def test_a_role_on_one_rank_is_whole_and_others_have_their_own_degrees_or_those_of_the_run(models):
    roles = {"policy": 2, "critic": {"ranks": 4, "tensor_parallel_degree": 4}, "reference": 1, "reward": "reference"}
    parsed = parse_ppo_arguments({**models, "tensor_parallel_degree": 2, "placement": roles})
    found = resolve_roles(parsed, world_size=7)
    assert found == {
        "policy": ((0, 1), Layout(tensor=2)), "critic": ((2, 3, 4, 5), Layout(tensor=4)),
        "reference": ((6,), Layout()), "reward": ((6,), Layout()), "rollout": ((0, 1), Layout(tensor=2)),
    }  # fmt: skip
    assert describe_roles(found) == (
        "policy, rollout on ranks 0, 1 (TP2); critic on ranks 2, 3, 4, 5 (TP4); reference, reward on rank 6"
    )
    three = parse_ppo_arguments({**models, "tensor_parallel_degree": 2, "placement": {**roles, "policy": 3}})
    with pytest.raises(ArgumentError, match=r"placement: policy on ranks 0, 1, 2: 3 process\(es\) cannot be arranged"):
        resolve_roles(three, world_size=8)


NODES = {f"{role}_num_nodes": 1 for role in ("actor", "ref", "critic", "reward")}
DEVICES = {f"{role}_num_gpus_per_node": 2 for role in ("actor", "ref", "critic", "reward")}


@pytest.mark.parametrize(
    ("given", "placement"),
    [
        ({**NODES, **DEVICES}, {"policy": 2, "reference": 2, "critic": 2, "reward": 2}),
        ({"actor_num_nodes": 2, "ref_num_gpus_per_node": 1}, {"policy": 16, "reference": 1}),
        ({**DEVICES, "colocate_actor_ref": True}, {"policy": 2, "reference": "policy", "critic": 2, "reward": 2}),
        ({**DEVICES, "colocate_critic_reward": "true"}, {"policy": 2, "reference": 2, "critic": 2, "reward": "critic"}),
        ({**DEVICES, "colocate_all_models": True, "vllm_num_engines": 2}, {"policy": 2}),
        ({"actor_num_gpus_per_node": 2, "colocate_all_models": True}, {"policy": 2}),
        (
            {"actor_num_gpus_per_node": 4, "colocate_all_models": True, "vllm_num_engines": 2,
             "vllm_tensor_parallel_size": 2},
            {"policy": 4, "rollout": {"ranks": [0, 1, 2, 3], "tensor_parallel_degree": 2}},
        ),
        (
            {**DEVICES, "vllm_num_engines": 2, "vllm_tensor_parallel_size": 2},
            {
                "policy": 2, "reference": 2, "critic": 2, "reward": 2,
                "rollout": {"ranks": 4, "tensor_parallel_degree": 2},
            },
        ),
        ({"vllm_num_engines": 0, "colocate_all_models": False}, {}),
    ],
)  # fmt: skip
def test_openrlhf_keys_are_one_placement(given, placement):
    assert translate_placement(given) == placement


def test_openrlhf_keys_of_a_file_reach_the_run_and_a_bad_one_is_named(models):
    parsed = parse_ppo_arguments({**models, **NODES, **DEVICES, "colocate_actor_ref": True})
    assert resolve_roles(parsed, world_size=6)["reward"][0] == (4, 5)
    with pytest.raises(ArgumentError, match=r"ref_num_nodes: expected a value >= 1, got 0 \(in the call from Python\)"):
        parse_ppo_arguments({**models, **NODES, **DEVICES, "ref_num_nodes": 0})
    with pytest.raises(ArgumentError, match="ref_num_nodes: give actor_num_nodes and actor_num_gpus_per_node too"):
        parse_ppo_arguments({**models, "ref_num_nodes": 1})
    with pytest.raises(ArgumentError, match=r"= 1 \* 2 with colocate_all_models: the engines have the 4 rank.s. of"):
        parse_ppo_arguments(
            {**models, "actor_num_gpus_per_node": 4, "colocate_all_models": True, "vllm_num_engines": 1,
             "vllm_tensor_parallel_size": 2}
        )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"colocate_actor_ref": True, "ref_num_gpus_per_node": 3}, "ref_num_nodes .* = 3 with colocate_actor_ref, wh"),
        ({"colocate_critic_reward": True, "reward_num_nodes": 2}, "reward_num_nodes .* = 4 with colocate_critic_rew"),
        ({"colocate_all_models": True, "critic_num_nodes": 2}, "the critic on the ranks of the actor .* = 2.: give bo"),
        ({"placement": APART}, "placement and actor_num_nodes, .* both say which ranks a model has"),
    ],
)
def test_openrlhf_numbers_that_a_shared_place_would_ignore_are_refused(models, given, said):
    """OpenRLHF refuses them too."""
    with pytest.raises(ArgumentError, match=said) as caught:
        parse_ppo_arguments({**models, **NODES, **DEVICES, **given})
    assert str(caught.value).startswith("1 invalid argument")


def test_openrlhf_keys_of_the_file_and_of_the_command_line_are_one_placement(models, tmp_path):
    file = tmp_path / "arguments.json"
    file.write_text(json.dumps({**models, **NODES, **DEVICES}))
    parsed = parse_ppo_arguments([str(file), "--colocate_actor_ref", "--critic_num_gpus_per_node", "1"])
    found = {role: seat[0] for role, seat in resolve_roles(parsed, world_size=5).items()}
    assert found == {"policy": (0, 1), "reference": (0, 1), "critic": (2,), "reward": (3, 4), "rollout": (0, 1)}
    assert parsed.origins["placement"] == "command line"
    given = parse_ppo_arguments([str(file), "--placement", json.dumps(APART)])
    assert json.loads(given.placement.placement) == APART, "a later source wins"
    with pytest.raises(ArgumentError, match=r"ref_num_nodes: expected .* \(.*arguments.json, line 1; command line\)"):
        parse_ppo_arguments([str(file), "--ref_num_nodes", "0"])


@pytest.mark.parametrize(("keys", "others"), [
    ({}, ["critic", "reference", "reward"]),
    ({"rl_algorithm": "grpo", "kl_loss_coeff": 0.1, "num_return_sequences": 2}, ["reference", "reward"]),
    ({"lora": True}, ["critic", "reference", "reward"]),
])  # fmt: skip
def test_models_that_are_all_on_the_actors_ranks_need_no_numbers_of_their_own(models, keys, others):
    together = {"actor_num_gpus_per_node": 2, "colocate_all_models": True}
    for written in (together, {"placement": {"policy": 2}}):
        parsed = parse_ppo_arguments({**models, **keys, **written})
        assert resolve_roles(parsed, world_size=2) == dict.fromkeys(
            ["policy", *others, "rollout"], ((0, 1), Layout(data=2))
        )
    with pytest.raises(ArgumentError, match=r"but the run has 1 process"):
        resolve_roles(parsed, world_size=1)


def test_a_trainer_without_placement_names_the_keys_that_the_user_wrote(models):
    sft = {"train_datasets": "packing-sft/train", "model_name_or_path": "actor", "output_dir": "output"}
    with pytest.raises(ArgumentError) as caught:
        parse_arguments(TRAINERS["sft"].groups, {**sft, "actor_num_nodes": 1})
    assert "unknown argument 'actor_num_nodes' (in the call from Python)" in str(caught.value)
    assert "placement" not in str(caught.value)


SOURCES = {"reward_sources": "helpful,polite", "critic_init": "policy", "reward_model_name_or_path": None}
JUDGED = {"eval_reward": json.dumps({"name": "polite", "log_as": "judge"})}


def test_reward_is_a_role_while_a_model_is_on_its_ranks(models):
    apart = {"policy": [0], "critic": [1], "reference": [1], "helpful": [0], "polite": [1]}
    found = resolve_roles(parse_ppo_arguments({**models, **SOURCES, "placement": apart}), world_size=2)
    assert "reward" not in found and found["helpful"] == ((0,), Layout())
    with pytest.raises(
        ArgumentError, match="reward has ranks, but each reward model has ranks of its own .helpful, pol"
    ):
        parse_ppo_arguments({**models, **SOURCES, "placement": {**apart, "reward": [2]}})
    del apart["polite"]
    with pytest.raises(ArgumentError, match="placement: reward has no ranks"):
        parse_ppo_arguments({**models, **SOURCES, "placement": apart})


def test_a_second_judge_has_ranks_where_the_run_evaluates(models):
    keys = {**models, **JUDGED, "placement": {**APART, "judge": [4]}}
    with pytest.raises(
        ArgumentError, match="judge has ranks, but evaluation_strategy=no, so the second judge is not load"
    ):
        parse_ppo_arguments(keys)
    evaluated = {"evaluation_strategy": "steps", "eval_steps": 1, "eval_datasets": "packing-prompts/test"}
    assert resolve_roles(parse_ppo_arguments({**keys, **evaluated}), world_size=5)["judge"] == ((4,), Layout())
