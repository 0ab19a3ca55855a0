"""Command lines of the tools, output folders and checkpoints."""

from __future__ import annotations

from bench import Bench, Case

PLAN = ["{here}/ppo.json", "--gpus", "2", "--memory_gib", "8"]


def _plan(bench: Bench) -> None:
    models = {"actor_model_name_or_path": str(bench.policy), "reward_model_name_or_path": str(bench.reward)}
    bench.write("ppo.json", {"train_datasets": "packing-prompts/train", "output_dir": "o", **models})


def _planned(name: str, argv: list[str], *says: str) -> Case:
    return Case(name, "plan", argv, says, _plan)


def _changed(option: str, value: str) -> list[str]:
    where = PLAN.index(option) + 1 if option in PLAN else len(PLAN)
    return [*PLAN[:where], value, *PLAN[where + 1 :]] if option in PLAN else [*PLAN, option, value]


TOOL_CASES = (
    *(
        _planned(f"{option} {value:.20}", _changed(option, value), option, says)
        for option, value, says in (
            ("--gpus", "0", ">= 1"),
            ("--gpus", "1000000000", "<= 131072"),
            ("--gpus", "two", "whole number"),
            ("--memory_gib", "nan", "finite"),
            ("--memory_gib", "-1", "> 0"),
            ("--memory_gib", "1e400", "finite"),
            ("--tflops", "0", "> 0"),
            ("--network_gib", "inf", "finite"),
            ("--per_node", "0", ">= 1"),
            ("--best", "none", "whole number"),
            ("--on", "tpu", "tpu"),
        )
    ),
    _planned("no file", ["nowhere.json", *PLAN[1:]], "nowhere.json"),
    _planned("no number of devices", PLAN[:1], "--gpus"),
    _planned("an unknown key", [*PLAN, "--learning_rat", "1"], "learning_rate"),
    _planned("a model that is not there", [*PLAN, "--actor_model_name_or_path", "./none"], "./none"),
    *(
        Case(f"{option} {value:.20}", "chat", ["{policy}", "--prompt", "pack rope", option, value], (option, says))
        for option, value, says in (
            ("--max_new_tokens", "0", ">= 1"),
            ("--max_new_tokens", "1000000000000", "<= 1"),
            ("--max_new_tokens", "many", "whole number"),
            ("--temperature", "0", "> 0"),
            ("--temperature", "nan", "finite"),
            ("--top_p", "2", "<= 1"),
            ("--top_k", "-1", ">= 0"),
            ("--seed", "-1", ">= 0"),
            ("--chat_template", "mine", "mine"),
        )
    ),
    Case(
        "a reward model that is not there",
        "chat",
        ["{policy}", "--prompt", "a", "--reward_model", "./none"],
        ("./none",),
    ),
    Case(
        "a reward model without a head", "chat", ["{policy}", "--prompt", "a", "--reward_model", "{policy}"], ("score",)
    ),
    Case("nothing", "chat", [], ("folder",)),
    Case("an empty prompt", "chat", ["{policy}", "--prompt", " "], ("--prompt is empty",)),
    Case("a prompt that is not UTF-8", "chat", ["{policy}", "--prompt", "a\udcff"], ("not UTF-8", r"'a\udcff'")),
    Case("a template that is not UTF-8", "chat", ["{policy}", "--input_template", "\udcff{}"], ("not UTF-8",)),
    Case("a folder that is not there", "chat", ["./none", "--prompt", "a"], ("none",)),
    Case("an empty folder", "chat", ["{here}", "--prompt", "a"], ("{here}",)),
    Case("a reward model", "chat", ["{reward}", "--prompt", "a"], ("score",)),
    Case("an unknown flag", "chat", ["{policy}", "--prompt", "a", "--tempature", "1"], ("--tempature",)),
    Case("nothing", "export", [], ("source",)),
    Case("a source that is not there", "export", ["none", "{here}/out"], ("none",)),
    Case("a source that is a file", "export", ["{policy}/config.json", "{here}/out"], ("config.json",)),
    Case("an empty source", "export", ["{here}/a", "{here}/out"], ("{here}/a",), lambda b: (b.here / "a").mkdir()),
    Case(
        "a target that is there",
        "export",
        ["{policy}", "{here}/t"],
        ("{here}/t", "--overwrite"),
        lambda b: b.write("t/mine.txt", "mine"),
    ),
    Case(
        "a target inside a file", "export", ["{policy}", "{here}/f/out"], ("{here}/f",), lambda b: b.write("f", "mine")
    ),
    Case(
        "a target that is the source",
        "export",
        ["{here}/m", "{here}/m", "--overwrite"],
        ("{here}/m",),
        lambda b: b.copy(),
    ),
    Case(
        "a target that is a file",
        "export",
        ["{policy}", "{here}/f", "--overwrite"],
        ("{here}/f is a file",),
        lambda b: b.write("f", "mine"),
    ),
    Case("a target that is the current folder", "export", ["{policy}", "", "--overwrite"], ("current folder",)),
    Case("an unknown type", "export", ["{policy}", "{here}/out", "--dtype", "int4"], ("--dtype",)),
    Case("nothing", "verify", [], ("--table",)),
    Case("a file that is not there", "verify", ["nowhere.json"], ("nowhere.json",)),
    Case("a key that does not matter", "verify", ["a.json", "--seed", "3"], ("--seed", "is not relevant to a layout")),
    Case("no processes", "verify", ["a.json", "--processes", "0"], ("--processes", ">= 1")),
    Case("no steps", "verify", ["--table", "--steps", "0"], ("--steps", ">= 1")),
    Case("no such layout", "verify", ["--table", "--only", "xyz"], ("--only xyz",)),
    Case("a lone word", "verify", ["a.json", "--tensor_parallel_degree"], ("pairs of --key value",)),
    Case("a seed that is a word", "demo", ["--seeds", "a"], ("--seeds", "'a'")),
    Case("a seed twice", "demo", ["--seeds", "1,1"], ("--seeds", "different")),
    Case("a negative seed", "demo", ["--seeds", "-1"], ("--seeds",)),
    Case("an unknown flag", "demo", ["--sed", "1", "--x"], ("--x",)),
    Case(
        "a folder that is a file",
        "sft",
        {"output_dir": "{here}/f"},
        ("output_dir", "{here}/f"),
        lambda b: b.write("f", "mine"),
    ),
    Case(
        "a folder below a file", "sft", {"output_dir": "{here}/f/out"}, ("output_dir",), lambda b: b.write("f", "mine")
    ),
    Case("a folder of 300 characters", "sft", {"output_dir": "{here}/" + "a" * 300}, ("output_dir",)),
    Case("a folder with a NUL", "sft", {"output_dir": "{here}/a\0b"}, ("output_dir",)),
    Case("a folder nobody may write", "sft", {"output_dir": "/proc/nowhere/out"}, ("output_dir",)),
    Case("a variable of the shell", "sft", {"output_dir": "$HOME_OF_NOBODY/out"}, ("output_dir",)),
    Case(
        "a checkpoint that is none",
        "sft",
        {"resume_from_checkpoint": "{here}/c"},
        ("{here}/c",),
        lambda b: (b.here / "c").mkdir(),
    ),
    Case("a model in place of a checkpoint", "sft", {"resume_from_checkpoint": "{policy}"}, ("cannot resume",)),
    Case(
        "a folder that holds a run",
        "sft",
        {"output_dir": "{here}/old"},
        ("--overwrite_output_dir true",),
        lambda b: b.write("old/policy/config.json", "{}"),
    ),
)
