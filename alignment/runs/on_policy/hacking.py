"""What a run does when its reward is hacked (``on_reward_hacking``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from alignment.loops.hacking.alarm import HackingAlarm
from alignment.loops.on_policy import KLController
from alignment.loops.session import BestModel
from alignment.metrics import GREEDY
from alignment.runs.assembly import build_best, deciding_metric
from alignment.runs.launch import Launch
from alignment.training.learner import Learner

STOP = "stop_at_best"
FACTOR = 2.0
"""By which each finding divides the learning rate or multiplies the KL coefficients."""
Act = Callable[[int], str]


def build_alarm(launch: Launch, policy: Learner, kl: KLController, *, judges: Sequence[str]) -> HackingAlarm:
    """Return the alarm of a run with the second ``judges`` (names), and with the action that the arguments ask for."""
    action = launch.parsed.on_policy.on_reward_hacking
    return HackingAlarm(act=ACTIONS[action](policy, kl), stops=action == STOP, judges=judges, folder=launch.output_dir)


def build_best_kept(launch: Launch, alarm: HackingAlarm, *, keep: Callable[[], None]) -> BestModel | None:
    """Return how the best weights are chosen: where a hacked reward stops the run, by the first second judge (of greedy
    answers where evaluations have them), or without one by the reward while the alarm has seen nothing; None where none
    are kept.
    """
    training = launch.parsed.training
    if not alarm.stops:
        return build_best(training, default="reward", keep=keep)
    answers = GREEDY if launch.parsed.generation.answers_twice else ""
    metric, is_greater = deciding_metric(training, f"{answers}{alarm.judges[0]}" if alarm.judges else "reward")
    return BestModel(metric=metric, greater_is_better=is_greater, keep=keep, allows=alarm.allows_best)


def _warn(policy: Learner, kl: KLController) -> Act:
    return lambda count: ""


def _lower_rate(policy: Learner, kl: KLController) -> Act:
    def act(count: int) -> str:
        policy.rate_factor = FACTOR**-count
        return f"on_reward_hacking=lower_lr: the policy learns at {policy.rate_factor:g} times its scheduled rate"

    return act


def _raise_kl(policy: Learner, kl: KLController) -> Act:
    before = kl.coefficient

    def act(count: int) -> str:
        kl.coefficient, kl.loss_scale = before * FACTOR**count, FACTOR**count
        return f"on_reward_hacking=raise_kl: the KL coefficients are {kl.loss_scale:g} times the given ones"

    return act


def _stop(policy: Learner, kl: KLController) -> Act:
    return lambda count: f"on_reward_hacking={STOP}: the run ends here, with the weights of its best evaluation"


ACTIONS: Mapping[str, Callable[[Learner, KLController], Act]] = MappingProxyType(
    {"warn": _warn, "lower_lr": _lower_rate, "raise_kl": _raise_kl, STOP: _stop}
)
"""Values of ``on_reward_hacking``."""
