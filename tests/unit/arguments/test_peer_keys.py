"""A key of another suite is answered with ours, and with how its value is converted."""

from __future__ import annotations

import pytest

from alignment.arguments.groups import declare
from alignment.arguments.peers.advice import PEER_KEYS, advise
from alignment.arguments.peers.trl_keys import TRL_KEYS
from alignment.arguments.translations import TRANSLATIONS
from alignment.errors import ArgumentError
from alignment.trainers.ppo.arguments import GROUPS, parse_ppo_arguments
from alignment.trainers.registered import TRAINERS

GIVEN = ["--train_datasets", "p", "--actor_model_name_or_path", "a", "--reward_model_name_or_path", "r"]
GIVEN += ["--output_dir", "o"]
SFT_GIVEN = ["--train_datasets", "p", "--model_name_or_path", "m", "--output_dir", "o"]
OURS = {name for slot in declare(GROUPS) for name in slot.names}


def _problem(key, value="3"):
    with pytest.raises(ArgumentError) as error:
        parse_ppo_arguments([*GIVEN, f"--{key}", value])
    return str(error.value).split("\n  ")[1]


def _sft_problem(key, value="3"):
    with pytest.raises(ArgumentError) as error:
        TRAINERS["sft"].parse([*SFT_GIVEN, f"--{key}", value])
    return str(error.value).split("\n  ")[1]


@pytest.mark.parametrize("key", PEER_KEYS)
def test_every_key_of_the_table_is_answered(key):
    peer = PEER_KEYS[key]
    assert key not in OURS and key not in TRANSLATIONS, "it would be read, not answered"
    if set(peer.ours) <= OURS:
        said = _problem(key)
    else:
        said = _sft_problem(key)
        assert set(peer.ours) <= {name for slot in declare(TRAINERS["sft"].groups) for name in slot.names}
    assert said.startswith(f"unknown argument '{key}' (command line): a key of {peer.suites}; ")
    assert all(name in said for name in peer.ours[:1])
    assert peer.how or said.endswith(f"; give {peer.ours[0]}=3")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("num_ppo_epochs", "4", "a key of TRL; give update_iters=4"),
        ("actor_rollout_ref.actor.ppo_epochs", "2", "a key of verl and SheepRLHF; give update_iters=2"),
        (
            "total_episodes",
            "1000",
            "a key of TRL; it counts responses: give max_steps = total_episodes / (per_device_train_batch_size * "
            "gradient_accumulation_steps * processes) * update_iters",
        ),
        ("lambd", "0.9", "a key of OpenRLHF; give gae_lambda=0.9"),
        (
            "vf_coef",
            "0.1",
            "a key of TRL and SheepRLHF; the critic has an optimizer of its own, for which a factor of the loss "
            "changes nothing: give critic_learning_rate",
        ),
    ],
)
def test_the_whole_message(key, value, said):
    assert _problem(key, value) == f"unknown argument '{key}' (command line): {said}"


def test_a_trainer_without_our_key_is_not_advised_to_give_it():
    assert advise("num_ppo_epochs", 4, {"learning_rate"}) is None
    assert "update_iters" not in _sft_problem("num_ppo_epochs", "4")


def test_no_other_answer_hides_one_of_trl():
    assert all(PEER_KEYS[key] is peer for key, peer in TRL_KEYS.items())


def test_a_key_without_counterpart_is_left_out():
    said = (
        "unknown argument 'padding_free' (command line): a key of TRL; leave it out: rows are computed without padding"
    )
    assert _sft_problem("padding_free", "true") == _problem("padding_free", "true") == said
    assert not PEER_KEYS["padding_free"].is_renamed
