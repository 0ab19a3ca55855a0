"""Dispatch ``alignment VERB ...``; modules are imported only when their verb is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from alignment import __version__
from alignment.errors import ArgumentError, UserError
from alignment.registry import near_matches


class Verb(NamedTuple):
    """A command; its module has ``main(argv)``, which returns an exit status (None: 0)."""

    summary: str
    uses_paddle: bool = False
    """Whether it uses Paddle in this process, so that the host must be prepared before Paddle is imported."""
    go_on: str = ""
    """What an interruption tells: how to continue."""


_AGAIN = "the same command continues"
VERBS = {
    "train": Verb("train a model: alignment train TRAINER FILE.json [--key value ...]"),
    "chat": Verb("talk to a model, or answer one prompt", uses_paddle=True),
    "export": Verb("write a trained model as a Hugging Face or PaddleNLP folder", uses_paddle=True),
    "merge": Verb("merge an adapter into its base and write the whole model", uses_paddle=True),
    "plan": Verb("predict the memory of a run and list the layouts that fit"),
    "verify": Verb("compare a parallel layout with one process, number by number", uses_paddle=True),
    "generate": Verb("answer prompts with K answers each, in one process or several", True, _AGAIN),
    "score": Verb("score answers with a reward model, a function, a service, or several", True, _AGAIN),
    "select": Verb("choose training rows among scored answers: the best, pairs, or all with their rewards"),
    "eval": Verb("measure models, rewards, policies: perplexity, ROUGE, accuracy, win rate, pass@k", True, _AGAIN),
    "serve": Verb("serve a policy or a reward model over HTTP", uses_paddle=True),
    "import-args": Verb("turn commands of other suites into argument files, and say what has no counterpart", True),
    "doctor": Verb("check whether the suite can run on this machine"),
    "demo": Verb("SFT, reward model and PPO on shipped data, judged by a true score", uses_paddle=True),
    "loop": Verb("rounds of generate, score, select, train and evaluate (RAFT, iterative DPO, ...)", True, _AGAIN),
    "report": Verb("write the report of a run, or one that compares runs"),
    "keys": Verb("list every key of every trainer as Markdown"),
}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``argv`` (None: the words after the command's name) and exit."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(describe())
        sys.exit(0)
    if words[0] == "--version":
        print(__version__)
        sys.exit(0)
    try:
        verb = find_verb(words[0])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    run(words[0], verb, words[1:])


def find_verb(name: str) -> Verb:
    """Return the verb; an unknown name is an ArgumentError that lists all."""
    if name not in VERBS:
        raise ArgumentError(f"unknown command {name!r}{near_matches(name, VERBS)} (commands: {', '.join(VERBS)})")
    return VERBS[name]


def run(name: str, verb: Verb, argv: Sequence[str]) -> NoReturn:
    """Run one verb and exit with its status, or with 2 and one message on a UserError, 130 on Ctrl-C."""
    from alignment.device.host import prepare_host, require_packages

    if name != "doctor":
        require_packages()
    if verb.uses_paddle:
        prepare_host()
        from alignment.runs.entry import run_entry

        run_entry(lambda _: _module(name).main(argv), go_on=verb.go_on)
    try:
        status = _module(name).main(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def _module(name: str) -> Any:
    return importlib.import_module(f"alignment.commands.{name.replace('-', '_')}")


def describe() -> str:
    """Return the text of ``alignment --help``."""
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: alignment COMMAND ...        (also: python -m alignment COMMAND ...)",
            "",
            *lines,
            "",
            "alignment COMMAND --help lists a command's options; alignment train TRAINER --help KEY explains a key.",
        ]
    )
