"""Rewards that cannot be had."""

from __future__ import annotations

from bench import Case

FUNCTIONS = """
def raises(prompts, responses, labels): raise KeyError("boom")
def leaves(prompts, responses, labels): exit()
def nan(prompts, responses, labels): return [float("nan")] * len(responses)
def short(prompts, responses, labels): return [0.0] * (len(responses) - 1)
def words(prompts, responses, labels): return ["good"] * len(responses)
def nothing(prompts, responses, labels): return None
def nested(prompts, responses, labels): return [[0.0, 1.0]] * len(responses)
def huge(prompts, responses, labels): return [1e39] * len(responses)
def no_arguments(): return []
number = 3
"""
NO_MODEL = {"reward_model_name_or_path": None, "reward_critic_model_name_or_path": "{reward}", "reward_retries": 0}


def _function(name: str, path: str, *says: str) -> Case:
    given = {**NO_MODEL, "reward_function": path, "max_steps": 1}
    return Case(name, "ppo", given, says, lambda b: b.write("rewards.py", FUNCTIONS))


def _service(name: str, address: object, *says: str) -> Case:
    given = {**NO_MODEL, "use_rm_server": True, "reward_server": address, "reward_timeout": 2, "max_steps": 1}
    return Case(f"service: {name}", "ppo", given, says)


def _sources(name: str, written: object, *says: str, **given: object) -> Case:
    return Case(f"sources: {name}", "ppo", {**NO_MODEL, "reward_sources": written, **given}, says)


def _term(name: str, *says: str, **given: object) -> Case:
    return Case(f"terms: {name}", "ppo", given, says)


REWARD_CASES = (
    _function("raises", "rewards.py:raises", "KeyError: 'boom'", "rewards.py, line 2"),
    _function("leaves", "rewards.py:leaves", "rewards.py, line 3"),
    _function("is not a number", "rewards.py:nan", "nan"),
    _function("is one short", "rewards.py:short", "8 responses"),
    _function("is a word", "rewards.py:words", "'good'"),
    _function("is nothing", "rewards.py:nothing", "8 responses"),
    _function("is a list of lists", "rewards.py:nested", "8 responses"),
    _function("is beyond float32", "rewards.py:huge", "finite"),
    _function("takes no arguments", "rewards.py:no_arguments", "TypeError"),
    _function("is not there", "rewards.py:missing", "no function 'missing'"),
    _function("is a number", "rewards.py:number", "no function 'number'"),
    _function("has no file", "nowhere.py:f", "'nowhere.py' does not exist"),
    _function("has no name", "rewards.py", "'package.module:function' or 'file.py:function'"),
    _function("has no module", "no_such_package.module:f", "no_such_package"),
    _function("compares numbers without labels", "alignment.rollout.rule_rewards:numbers", "row 0", "label_key"),
    _function("runs code without tests", "alignment.rollout.rule_rewards:code", "row 0 has no tests", "label_key"),
    _service("is down", "http://127.0.0.1:9/score", "127.0.0.1:9"),
    _service("has no address", None, "needs reward_server="),
    _service("has no scheme", "127.0.0.1:9", "must begin with http://"),
    _service("has no host", "http:///score", "http:///score"),
    _service("has a port that is none", "http://127.0.0.1:port/", "reward_server"),
    Case("two sources", "ppo", {"reward_function": "m:f"}, ("got reward_model_name_or_path, reward_function",)),
    _sources("beside one source", ["json:loads"], "got reward_function, reward_sources", reward_function="json:loads"),
    _sources("none", [], "reward_sources names no source"),
    _sources("an unknown field", [{"name": "json:loads", "wieght": 1}], "'wieght'", "did you mean 'weight'"),
    _sources("weights that cancel", [{"name": "json:loads"}, {"name": "json:loads", "weight": -1}], "1 and -1 cancel"),
    _sources("no weight", ["json:loads"], "all weights of reward_sources are 0", reward_weights=[0]),
    _sources("a weight too many", ["json:loads"], "2 numbers", "1 sources", reward_weights=[1, 2]),
    _sources("a cost added", [{"name": "{reward}", "kind": "cost", "weight": -1}], "a cost is subtracted"),
    _sources("a model that is not there", ["./absent"], "source 1 of 1", "'./absent' does not exist"),
    _sources("options it does not take", [{"name": "json:loads", "options": {"b": 1}}], "TypeError", max_steps=1),
    _term("a buffer as long as the response", "below max_dec_len", overlong_buffer_len=10000),
    _term("a pattern that is none", "'(a' is not a regular expression", reward_format_pattern="(a"),
    _term("a tag with its brackets", "'<think>' is not the name of a tag", reward_format_tags=["<think>"]),
    _term("a coefficient above 1", "stop_properly_penalty_coef", "<= 1", stop_properly_penalty_coef=2),
    _term("a penalty that rewards", "missing_eos_penalty", ">= 0", missing_eos_penalty=-1),
)
