"""Groups that the value of a key adds to a run, on small groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from alignment.arguments.groups import Choice
from alignment.arguments.parser import parse_arguments
from alignment.arguments.reference import render_trainer
from alignment.errors import ArgumentError
from alignment.fields import argument, inert


@dataclass(frozen=True, kw_only=True)
class Plain:
    rl_algorithm: str = argument("ppo", aliases=("algorithm_name",))
    """What learns."""
    rows: int = argument(4, minimum=1)
    """Rows."""


@dataclass(frozen=True, kw_only=True)
class Clipped:
    clip: float = argument(0.2, above=0)
    """Clip."""
    kind: Literal["token", "sequence"] = "token"
    """Kind."""


@dataclass(frozen=True, kw_only=True)
class PPOHyperparameters(Clipped):
    gae_lambda: float = argument(0.95, minimum=0, maximum=1, aliases=("lam",))
    """Weight of later steps."""
    target: float = argument()
    """Must be given."""


@dataclass(frozen=True, kw_only=True)
class GRPOHyperparameters(Clipped):
    clip: float = argument(0.3, above=0)
    """Clip of a group."""
    kl_loss: float = 0.001
    """Weight of the KL."""
    gamma: float = inert(1.0, "a group's advantage is the same at every token")
    """Discount."""


@dataclass(frozen=True, kw_only=True)
class Critic:
    critic_rate: float = 1.0
    """Rate of the critic."""


GROUPS = {
    "plain": Plain,
    "algorithm": Choice(
        "rl_algorithm", {"ppo": PPOHyperparameters, "vapo": PPOHyperparameters, "grpo": GRPOHyperparameters}
    ),
    "critic": Choice("rl_algorithm", {"ppo": Critic, "vapo": Critic, "grpo": None}),
}


def _problems(*argv, checks=()):
    with pytest.raises(ArgumentError) as error:
        parse_arguments(GROUPS, argv, checks=checks)
    return str(error.value).split("\n  ")[1:]


@pytest.mark.parametrize("where", ["command line", "file"])
def test_the_value_of_a_key_adds_its_group_with_its_own_defaults(where, tmp_path):
    argv = ["--algorithm_name", "grpo", "--kl_loss", "0.5"]
    if where == "file":
        (tmp_path / "a.json").write_text('{"rl_algorithm": "grpo", "kl_loss": 0.5}')
        argv = [str(tmp_path / "a.json")]
    parsed = parse_arguments(GROUPS, argv)
    assert parsed.algorithm == GRPOHyperparameters(clip=0.3, kl_loss=0.5)
    assert set(parsed.groups) == {"plain", "algorithm"}
    assert parsed.as_dict() == {
        "rl_algorithm": "grpo", "rows": 4, "clip": 0.3, "kind": "token", "kl_loss": 0.5, "gamma": 1.0
    }  # fmt: skip
    with pytest.raises(AttributeError, match="no argument group 'critic'"):
        _ = parsed.critic


def test_the_default_of_the_key_adds_a_group_too():
    parsed = parse_arguments(GROUPS, ["--target", "6", "--critic_rate", "2"])
    assert parsed.algorithm == PPOHyperparameters(target=6.0)
    assert parsed.critic == Critic(critic_rate=2.0)


def test_the_command_line_chooses_over_the_file(tmp_path):
    (tmp_path / "a.json").write_text('{"rl_algorithm": "ppo", "clip": 0.25}')
    assert parse_arguments(GROUPS, [str(tmp_path / "a.json"), "--rl_algorithm=grpo"]).algorithm.clip == 0.25


@pytest.mark.parametrize("value", ["0.95", "0.5"])
def test_keys_of_another_choice_are_refused_by_name_even_with_their_default(value):
    assert _problems("--rl_algorithm", "grpo", "--gae_lambda", value, "--lam", value, "--critic_rate", "1") == [
        "gae_lambda belongs to rl_algorithm=ppo or vapo; this run has rl_algorithm=grpo (command line)",
        "lam belongs to rl_algorithm=ppo or vapo; this run has rl_algorithm=grpo (command line)",
        "critic_rate belongs to rl_algorithm=ppo or vapo; this run has rl_algorithm=grpo (command line)",
    ]
    assert _problems("--target", "6", "--kl_loss", "0.001") == [
        "kl_loss belongs to rl_algorithm=grpo; this run has rl_algorithm=ppo (command line)"
    ]


def test_an_unknown_choice_is_the_only_problem_told_about_the_groups_it_would_add():
    assert _problems("--rl_algorithm", "grop", "--kl_loss", "0.5", "--critic_rate", "1", "--rows", "0") == [
        "rl_algorithm: expected one of 'ppo', 'vapo', 'grpo', got 'grop'; did you mean 'grpo'? (command line)",
        "rows: expected a value >= 1, got 0 (command line)",
    ]


def test_a_required_key_is_required_where_its_group_is():
    assert _problems("--rows", "2") == ["missing required argument 'target'"]
    assert parse_arguments(GROUPS, ["--rl_algorithm", "grpo"]).plain.rows == 4


def test_a_check_of_another_choice_is_left_out():
    def check(v):
        if v.rows > 3:
            yield "rows"
        if v.gae_lambda > 0.5:
            yield "gae_lambda"

    assert _problems("--target", "1", checks=[check]) == ["rows", "gae_lambda"]
    assert _problems("--rl_algorithm", "grpo", checks=[check]) == ["rows"]
    with pytest.raises(AssertionError, match="no argument 'gae_lamda'"):
        _problems("--rl_algorithm", "grpo", checks=[lambda v: [v.gae_lamda]])


def test_mistakes_of_a_programmer():
    with pytest.raises(AssertionError, match="argument 'rl_algorithm', 'rows' belongs to two groups"):
        parse_arguments({**GROUPS, "more": Choice("rl_algorithm", {"ppo": None, "vapo": Plain, "grpo": None})}, [])
    with pytest.raises(AssertionError, match="name different values"):
        parse_arguments({**GROUPS, "more": Choice("rl_algorithm", {"ppo": Critic})}, [])
    with pytest.raises(AssertionError, match="not every run has the choosing keys other"):
        parse_arguments({**GROUPS, "more": Choice("other", {"ppo": None})}, [])


def _help(capsys, *argv):
    with pytest.raises(SystemExit):
        parse_arguments(GROUPS, argv)
    return capsys.readouterr().out


def test_help_shows_the_group_of_each_choice_under_its_name(capsys):
    out = _help(capsys, "--help")
    assert (
        "plain:\n    rl_algorithm  rows\n\n"
        "algorithm:\n    kind\n\n"
        "algorithm, rl_algorithm=ppo, rl_algorithm=vapo:\n    clip  gae_lambda  target\n\n"
        "algorithm, rl_algorithm=grpo:\n    clip  kl_loss\n\n"
        "critic, rl_algorithm=ppo, rl_algorithm=vapo:\n    critic_rate\n\n1 more keys"
    ) in out


def test_help_of_a_key_tells_it_for_each_choice(capsys):
    assert _help(capsys, "--help", "clip") == (
        "clip (rl_algorithm=ppo or vapo): number > 0; default 0.2\n    Clip.\n\n"
        "clip (rl_algorithm=grpo): number > 0; default 0.3\n    Clip of a group.\n"
    )
    every = "rl_algorithm=ppo, vapo or grpo"
    assert _help(capsys, "--help", "kind").startswith(f"kind ({every}): 'token', 'sequence'; default")
    expected = "rl_algorithm: 'ppo', 'vapo', 'grpo'; default \"ppo\"\n    What learns. Also written algorithm_name.\n"
    assert _help(capsys, "--help", "rl_algorithm") == expected
    assert [line.split()[0] for line in _help(capsys, "--help", "algorithm").splitlines() if line[:1].strip()] == [
        "clip", "kind", "gae_lambda", "target", "clip", "kl_loss", "gamma"
    ]  # fmt: skip


def test_help_of_a_value_tells_the_keys_that_it_adds(capsys):
    heads = [line.split()[0] for line in _help(capsys, "--help", "vapo").splitlines() if line[:1].strip()]
    assert heads == ["clip", "kind", "gae_lambda", "target", "critic_rate"]


def test_the_reference_shows_the_group_of_each_choice_under_its_name():
    text = render_trainer("Toy", GROUPS, set())
    titles = [line for line in text.splitlines() if line.startswith("**")]
    assert titles == [
        "**Plain arguments**",
        "**PPO hyperparameters** (`rl_algorithm=ppo`, `rl_algorithm=vapo`)",
        "**GRPO hyperparameters** (`rl_algorithm=grpo`)",
        "**Critic arguments** (`rl_algorithm=ppo`, `rl_algorithm=vapo`)",
    ]
    assert "| `clip` | number > 0 | `0.3` | Clip of a group. |" in text
    assert "| `kind` | 'token', 'sequence' | `\"token\"` | Kind. |" in text
    assert "| `rl_algorithm` | 'ppo', 'vapo', 'grpo' | `\"ppo\"` |" in text
