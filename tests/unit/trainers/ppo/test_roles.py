"""The models of PPO: where they come from, where their sequences end, and what is said when they do not fit."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from alignment.architecture.layout import Layout
from alignment.arguments.keys.generation import GenerationArguments
from alignment.arguments.keys.training import TrainingArguments
from alignment.data.sources.packing import TOKENIZER
from alignment.errors import ArgumentError, UserError
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.models.config import read_config
from alignment.models.decoder.score_model import ScoreOptions
from alignment.models.folders import hub
from alignment.models.folders.hub import random_causal_lm, random_score_model
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.models.tokenizer.trained_template import describe_template
from alignment.parallel.comms.group import ALONE
from alignment.parallel.roles import RoleRanks
from alignment.records import Rollout
from alignment.runs import models as trainer_models
from alignment.runs.on_policy.engines import describe_restrictions, fused_settings, generation_options, unused_keys
from alignment.runs.on_policy.reward_models import choose_sequences
from alignment.runs.on_policy.roles import RoleFolders, check_folders, find_frozen
from alignment.trainers.ppo.arguments import parse_ppo_arguments

SHAPE = dict(
    model_type="llama",
    vocab_size=24,
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=64,
)


@pytest.fixture(scope="module")
def tokenizer():
    """Its EOS is 2, and it has a chat template."""
    return load_tokenizer(TOKENIZER)


@pytest.fixture
def folders(tmp_path, tokenizer):
    """The folders of an SFT run and of a reward-model run, as the runs leave them."""
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    policy = random_causal_lm(tmp_path, seed=0, tokenizer=tokenizer)
    save_model(tmp_path / "sft" / "policy", policy, tokenizer)
    save_model(
        tmp_path / "rm" / "reward", random_score_model(tmp_path, ScoreOptions(), seed=1, tokenizer=tokenizer), tokenizer
    )
    return tmp_path


@pytest.fixture
def start(folders):
    """Return a function: the start of a PPO run with further keys."""

    def make(**keys):
        keys = {
            "train_datasets": "packing-prompts/train",
            "actor_model_name_or_path": folders / "sft",
            "reward_model_name_or_path": folders / "rm",
            "output_dir": folders / "out",
            "max_length": 32,
            "max_dec_len": 8,
            "chat_template": "tokenizer",
            **keys,
        }
        parsed = parse_ppo_arguments([part for key, value in keys.items() for part in (f"--{key}", str(value))])
        return SimpleNamespace(parsed=parsed, checkpoint=None, topology=SimpleNamespace(world=ALONE), hashed={})

    return make


def change(folder, **keys):
    path = folder / "config.json"
    content = json.loads(path.read_text()) | keys
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_the_folders_of_runs_stand_for_their_models(start, folders):
    found = RoleFolders.of(start())
    reward = str(folders / "rm" / "reward")
    assert found == (str(folders / "sft" / "policy"), reward, reward, None, None)


def test_a_rollout_ends_where_any_file_says(start, folders, tokenizer):
    (folders / "sft" / "policy" / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 2]}))
    change(folders / "sft" / "policy", eos_token_id=7)
    config = read_config(folders / "sft" / "policy")
    roles = SimpleNamespace(tokenizer=tokenizer, policy=SimpleNamespace(config=config))
    assert generation_options(start().parsed, roles, sample=True).stop_token_ids == (2, 7, 9)
    more = generation_options(start(stop_token_ids="11").parsed, roles, sample=False)
    assert more.stop_token_ids == (2, 7, 9, 11)


def test_a_model_takes_over_the_template_and_the_end_of_its_run(start, folders, tokenizer, monkeypatch):
    """The end that the template writes is one beside the tokenizer's in both files that the run saves."""
    encoder = SimpleNamespace(end_id=6)
    monkeypatch.setattr(trainer_models, "Encoder", lambda *_: encoder)
    model = random_causal_lm(folders, seed=0, tokenizer=tokenizer)
    trainer_models.adopt(start(), model, tokenizer)
    save_model(folders / "saved", model, tokenizer)
    config = json.loads((folders / "saved" / "config.json").read_text())
    assert config["eos_token_id"] == [2, 6]
    assert config["trained_template"] == describe_template("tokenizer", tokenizer)
    assert json.loads((folders / "saved" / "generation_config.json").read_text())["eos_token_id"] == [2, 6]


def chosen_sequences(start, tokenizer):
    folders = RoleFolders.of(start)
    return choose_sequences(start, tokenizer, reward=folders.reward, actor=folders.actor)


def sequences(start, tokenizer):
    chosen = chosen_sequences(start, tokenizer)
    rollout = Rollout(
        prompts=(np.array([5, 6]),),
        responses=(np.array([8, 2]),),
        finish_reasons=("stop",),
        group_ids=np.zeros(1, np.int64),
        inputs=("pack apple",),
    )
    return [row.tolist() for row in chosen(rollout)]


def test_a_reward_model_trained_elsewhere_whose_padding_is_its_end(start, folders, tokenizer, caplog):
    reward = folders / "rm" / "reward"
    change(reward, pad_token_id=2, score_normalizer=None)
    assert sequences(start(), tokenizer) == [[5, 6, 8, 2]]
    assert "give score_before_padding=true" in caplog.text
    caplog.clear()
    assert sequences(start(score_before_padding=True), tokenizer) == [[5, 6, 8]]
    assert "score_before_padding" not in caplog.text


def test_our_own_reward_models_are_read_at_the_end(start, folders, tokenizer, caplog):
    change(folders / "rm" / "reward", pad_token_id=2)
    assert sequences(start(), tokenizer) == [[5, 6, 8, 2]]
    assert "score_before_padding" not in caplog.text


def test_scores_before_padding_need_a_padding(start, folders, tokenizer):
    change(folders / "rm" / "reward", pad_token_id=None)
    with pytest.raises(ArgumentError, match="score_before_padding=true, but config.json in .* names no pad_token_id"):
        sequences(start(score_before_padding=True), tokenizer)


def test_a_reward_model_of_another_template_is_told(start, folders, tokenizer, caplog):
    change(folders / "rm" / "reward", trained_template={"chat_template": "none"})
    sequences(start(), tokenizer)
    assert "was trained with the classic template (chat_template=none)" in caplog.text


@pytest.mark.parametrize(("template", "lines"), [("none", 1), ("tokenizer", 0)])
def test_a_trainer_says_once_that_the_models_own_template_is_not_used(
    template, lines, start, folders, tokenizer, caplog
):
    made = SimpleNamespace(parsed=start(chat_template=template).parsed, ranks_of=lambda role: RoleRanks())
    trainer_models.check_start(made, None, str(folders / "sft" / "policy"), tokenizer)
    assert caplog.text.count("has a chat template of its own") == lines
    assert caplog.text.count("\n") == lines


@pytest.fixture
def check(start, folders, tokenizer):
    """Return a function: check the three folders of a run with a layout and further keys."""

    def run(layout, *, roles=None, **keys):
        seats, plain = {role: RoleRanks(layout=own) for role, own in (roles or {}).items()}, RoleRanks(layout=layout)
        made = SimpleNamespace(parsed=start(**keys).parsed, roles=seats, ranks_of=lambda role: seats.get(role, plain))
        found = RoleFolders.of(made)
        check_folders(made, found, load_tokenizer(found.actor))

    return run


@pytest.mark.parametrize("part", ["sft/policy", "rm/reward"])
def test_a_model_that_cannot_be_cut_by_the_degrees_is_refused_by_its_folder(check, folders, part):
    check(Layout(tensor=2))
    change(folders / part, num_attention_heads=1, num_key_value_heads=1)
    with pytest.raises(ArgumentError, match=f"{part}: .*head"):
        check(Layout(tensor=2))


@pytest.mark.parametrize(("layout", "said"), [
    (Layout(tensor=3), "tensor_parallel_degree=3 does not divide the model's 2 attention heads .allowed: 1, 2."),
    (Layout(pipeline=2), "pipeline_parallel_degree=2 is more than the model's 1 layers .allowed: 1 to 1."),
])  # fmt: skip
@pytest.mark.parametrize("role", ["policy", "critic", "reference", "rollout", "reward"])
def test_the_degrees_of_each_role_are_compared_with_its_model(check, role, layout, said):
    with pytest.raises(ArgumentError, match=rf"{role} in placement.: {said}"):
        check(Layout(), roles={role: layout})


def test_a_reward_model_beside_another_critic_is_checked_for_the_degrees_too(check, folders):
    shutil.copytree(folders / "rm" / "reward", folders / "critic")
    change(folders / "rm" / "reward", num_attention_heads=1, num_key_value_heads=1)
    with pytest.raises(ArgumentError, match="rm/reward: .*head"):
        check(Layout(tensor=2), reward_critic_model_name_or_path=folders / "critic")


@pytest.mark.parametrize("part", ["sft/policy", "rm/reward"])
def test_a_model_that_is_too_short_for_max_length_is_refused(check, folders, part):
    change(folders / part, max_position_embeddings=16)
    with pytest.raises(UserError, match=f"{part}.*16"):
        check(Layout())


def test_a_critic_with_another_tokenizer_is_refused(check, folders):
    path = folders / "rm" / "reward" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].append({**content["added_tokens"][-1], "id": 23, "content": "<more>"})
    path.write_text(json.dumps(content))
    with pytest.raises(ArgumentError, match="the critic in .*rm/reward has another tokenizer"):
        check(Layout())


def test_the_policy_with_a_template_of_its_own_is_told_once(check, caplog):
    check(Layout(), chat_template="none")
    assert caplog.text.count("has a chat template of its own") == 1


def test_a_stop_id_must_be_one_that_the_policy_can_write(start, folders, tokenizer):
    roles = SimpleNamespace(tokenizer=tokenizer, policy=SimpleNamespace(config=read_config(folders / "sft" / "policy")))
    assert 23 in generation_options(start(stop_token_ids="23").parsed, roles, sample=True).stop_token_ids
    with pytest.raises(ArgumentError, match="stop_token_ids=24 is not a token of the policy .allowed: 0 to 23"):
        generation_options(start(stop_token_ids="24").parsed, roles, sample=True)


def _no_change(reward):
    pass


def _smaller_vocabulary(reward):
    change(reward.parents[1] / "sft" / "policy", vocab_size=32)


def _another_template(reward):
    path = reward / "tokenizer_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "chat_template": "{# other #}" + content["chat_template"]}))
    (reward / "chat_template.jinja").unlink(missing_ok=True)


def _another_token(reward):
    change(reward, vocab_size=32)
    path = reward / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].append({**content["added_tokens"][-1], "id": 23, "content": "<more>"})
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("alter", "template", "kind"),
    [
        (_no_change, "tokenizer", "SameTokens"),
        (_no_change, "none", "SameTokens"),
        (_smaller_vocabulary, "tokenizer", "Retokenized"),
        (_another_template, "tokenizer", "Retokenized"),
        (_another_template, "none", "SameTokens"),
        (_another_token, "tokenizer", "Retokenized"),
    ],
)
def test_ids_go_to_the_reward_model_as_they_are_where_it_reads_them_alike_in_every_way(
    alter, template, kind, start, folders, tokenizer, caplog
):
    alter(folders / "rm" / "reward")
    caplog.set_level("INFO")
    made = start(chat_template=template)
    assert type(chosen_sequences(made, tokenizer)).__name__ == kind
    assert ("responses are re-encoded with its template" in caplog.text) is (kind == "Retokenized")


@pytest.mark.parametrize(("key", "folder"), [("actor_model_name_or_path", "rm"), ("reward_model_name_or_path", "sft")])
def test_the_folder_of_another_trainers_run_is_no_such_model(key, folder, start, folders):
    made = start(**{key: folders / folder})
    with pytest.raises(UserError, match=f"{folders / folder}"):
        RoleFolders.of(made)


def test_a_critic_may_start_from_any_run_and_takes_the_model_that_is_nearest_to_it(start, folders):
    made = start(reward_critic_model_name_or_path=folders / "sft")
    assert RoleFolders.of(made).critic == str(folders / "sft" / "policy")
    shutil.copytree(folders / "rm" / "reward", folders / "sft" / "value")
    assert RoleFolders.of(made).critic == str(folders / "sft" / "value")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"top_p": 0.8}, "drawn with top_p=0.8, but"),
        ({"top_k": 5}, "drawn with top_k=5, but"),
        ({"repetition_penalty": 1.2}, "drawn with repetition_penalty=1.2, but"),
        ({"min_dec_len": 2}, "drawn with min_dec_len=2, but"),
        ({"top_p": 0.5, "min_dec_len": 3}, "drawn with top_p=0.5, min_dec_len=3, but"),
        ({}, None),
        ({"temperature": 0.7, "max_dec_len": 9}, None),
    ],
)
def test_keys_that_draw_from_another_distribution_than_is_scored_are_told(given, said):
    neutral = {"top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0, "min_dec_len": 0}
    line = describe_restrictions(GenerationArguments(**(neutral | given)))
    if said is None:
        assert line is None
    else:
        assert said in line and "those of the full policy" in line


def test_the_reward_model_that_is_the_critic_too_is_told_once(start, monkeypatch):
    told = []
    monkeypatch.setattr(hub.log, "info", told.append)
    folders = RoleFolders.of(start())
    assert folders.critic == folders.reward
    assert [line.rsplit(" ", 1)[-1] for line in told] == ["policy/", "reward/"]


def test_the_usual_minimum_of_one_token_is_told_briefly():
    line = describe_restrictions(GenerationArguments(top_p=1.0, top_k=0, repetition_penalty=1.0))
    assert line == (
        "min_dec_len=1: no response is empty; log-probs do not know that the first token cannot be an end token"
    )


@pytest.mark.parametrize(("kind", "size"), [("float32", 4), ("bfloat16", 2)])
def test_keys_and_values_have_room_for_every_sequence_at_its_longest(kind, size):
    """Two tensors, 3 layers, 2 key heads of 8 in 2 processes."""
    engine = SimpleNamespace(rollout_kv_type=kind, rollout_kv_memory=None, rollout_weight_type="float32", **NO_DRAFTS)
    training = TrainingArguments(output_dir="out")
    parsed = SimpleNamespace(engine=engine, data=SimpleNamespace(max_length=100), training=training)
    config = SimpleNamespace(num_key_value_heads=2, num_hidden_layers=3, head_dim=8)
    place = SimpleNamespace(tensor=SimpleNamespace(size=2))
    settings = fused_settings(parsed, config, place, rows=5, device="cpu")
    tokens = (-(-100 // FusedSettings().block_tokens) + 1) * FusedSettings().block_tokens
    assert settings.kv_bytes == 5 * tokens * 2 * 3 * 1 * 8 * size
    assert (settings.num_slots, settings.max_length, settings.kv_type) == (5, 100, kind)
    assert settings.max_rows == FusedSettings().max_rows
    assert fused_settings(parsed, config, place, rows=5, device="gpu").max_rows == 2048


NO_DRAFTS = {"speculative_tokens": 0, "speculative_method": "ngram"}
TOKENIZERS, TEMPLATES = ([f"the {it}", f"the {it} of the reward model"] for it in ("tokenizer", "chat template"))


@pytest.mark.parametrize(
    ("keys", "frozen"),
    [
        ({}, {*TOKENIZERS, *TEMPLATES, "the reference", "the reward model"}),
        ({"chat_template": "none"}, {*TOKENIZERS, "the reference", "the reward model"}),
        (
            {"rl_algorithm": "grpo", "num_return_sequences": 2, "kl_loss_coeff": 0},
            {*TOKENIZERS, *TEMPLATES, "the reward model"},
        ),
    ],
)
def test_a_resumed_run_must_find_the_models_that_it_does_not_train(start, folders, tokenizer, keys, frozen):
    launch = start(**keys)
    found = find_frozen(launch, RoleFolders.of(launch), tokenizer)
    assert len(found) == len(frozen) and {item.name for item in found} == frozen
    shutil.copyfile(folders / "sft/policy/model.safetensors", folders / "rm/reward/model.safetensors")
    changed = find_frozen(start(**keys), RoleFolders.of(launch), tokenizer)
    assert [one.name for one, other in zip(found, changed, strict=True) if one != other] == ["the reward model"]


def test_without_given_types_rollouts_have_those_of_training():
    engine = SimpleNamespace(rollout_kv_type=None, rollout_kv_memory="1MiB", rollout_weight_type=None, **NO_DRAFTS)
    training = TrainingArguments(output_dir="out", bf16=True, fp16_opt_level="O2")
    parsed = SimpleNamespace(engine=engine, data=SimpleNamespace(max_length=100), training=training)
    config = SimpleNamespace(num_key_value_heads=2, num_hidden_layers=3, head_dim=8)
    place = SimpleNamespace(tensor=SimpleNamespace(size=1))
    for device, kind, rows in (("cpu", "float32", FusedSettings().max_rows), ("gpu", "bfloat16", 2048)):
        made = fused_settings(parsed, config, place, rows=5, device=device)
        assert (made.weight_type, made.kv_type, made.kv_bytes, made.max_rows) == (kind, kind, 2**20, rows)


def test_keys_that_the_eager_engine_leaves_without_effect_are_told():
    given = {"rollout_weight_type": "bfloat16", "rollout_kv_type": None, "rollout_kv_memory": "2GiB"}
    parsed = SimpleNamespace(engine=SimpleNamespace(**given, speculative_tokens=0), given=given.get)
    told = "has no effect: rollouts use the eager engine with the policy's own weights (no nvcc)"
    assert unused_keys(parsed, "no nvcc") == [f"rollout_weight_type=bfloat16 {told}", f"rollout_kv_memory=2GiB {told}"]
    assert not unused_keys(parsed, None)
