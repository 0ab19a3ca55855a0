"""The command line finds its verbs, costs nothing before one is named, and says what it does not know."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from alignment import __version__
from alignment.commands.main import VERBS, main
from alignment.trainers.registered import TRAINERS

ROOT = Path(__file__).parents[3]
OLD_DOORS = {"chat": "chat", "demo": "demo", "doctor": "doctor", "export": "export", "plan": "plan",
             "verify_layout": "verify"}  # fmt: skip


def call(capsys, *argv):
    with pytest.raises(SystemExit) as leaving:
        main(argv)
    return leaving.value.code, *capsys.readouterr()


@pytest.mark.parametrize("argv", [(), ("--help",), ("-h",), ("help",)])
def test_help_names_every_verb(argv, capsys):
    status, out, err = call(capsys, *argv)
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == list(VERBS)


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom alignment.commands import main\nprint(main.describe())\n"
        "heavy = {'paddle', 'numpy', 'jinja2', 'rich', 'tokenizers', 'datasets'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_of_its_own(verb):
    command = [sys.executable, "-m", "alignment", verb, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: alignment {verb}") and done.stderr == ""
    assert "``" not in done.stdout and "imported at the top" not in done.stdout
    assert callable(importlib.import_module(f"alignment.commands.{verb.replace('-', '_')}").main)


def test_keys_prints_the_keys_and_no_word_of_paddle():
    """Some of the keys stand in modules that import Paddle, which would complain that ccache is missing."""
    done = subprocess.run(
        [sys.executable, "-m", "alignment", "keys"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stderr == "" and "`learning_rate`" in done.stdout


@pytest.mark.parametrize(("door", "verb"), OLD_DOORS.items())
def test_the_older_commands_are_the_verbs(door, verb):
    command = [sys.executable, "-m", f"alignment.{door}", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: alignment {verb}")


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("exprot",), "error: unknown command 'exprot'; did you mean 'export'? (commands: train, chat"),
        (("train",), "error: which trainer? (sft, rm, "),
        (("train", "pp"), "error: unknown trainer 'pp'; did you mean 'ppo'?"),
        (("export", "only-one"), "error: the following arguments are required: target (alignment export --help"),
        (("keys", "x"), "error: unrecognized arguments: x (alignment keys --help"),
    ],
)
def test_what_is_wrong_is_one_message(argv, says, capsys):
    status, out, err = call(capsys, *argv)
    assert (status, out) == (2, "")
    assert err.startswith(says) and err.count("\n") == 1


def test_trainers_are_listed_by_the_registry(capsys):
    status, out, _ = call(capsys, "train", "--help")
    assert status == 0
    for name in TRAINERS:
        assert f"  {name}" in out and TRAINERS[name].title in out


def test_a_trainer_explains_its_keys():
    command = [sys.executable, "-m", "alignment", "train", "sft", "--help", "learning_rate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("learning_rate")


@pytest.mark.parametrize("verb", VERBS)
def test_ctrl_c_ends_every_verb_with_one_line(verb, monkeypatch, capsys):
    """Only a stage is continued by the same command, and only a trainer has checkpoints."""
    module = importlib.import_module(f"alignment.commands.{verb.replace('-', '_')}")
    monkeypatch.setattr(module, "main", lambda argv: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr("alignment.device.host.prepare_host", lambda: "here")
    status, out, err = call(capsys, verb)
    hint = "; the same command continues" if verb in ("generate", "score", "eval", "loop") else ""
    assert (status, out, err) == (130, "", f"interrupted{hint}\n")


def test_version(capsys):
    assert call(capsys, "--version") == (0, f"{__version__}\n", "")


FILE = {
    "train": ("train", "sft", "{}"),
    "plan": ("plan", "{}", "--gpus", "1", "--memory_gib", "1"),
    "verify": ("verify", "{}"),
    "verify, its page": ("verify", "--table", "--write", "{}"),
}


@pytest.mark.parametrize(
    ("name", "reason"),
    [("folder", "it is a folder"), ("bytes", "it is not UTF-8 text (byte 0xe9 at position 3)"),
     ("a" * 300, "file name too long")],
)  # fmt: skip
@pytest.mark.parametrize("command", FILE)
def test_a_file_that_cannot_be_read_is_one_message(command, name, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "bytes").write_bytes("{caf\xe9".encode("latin-1")[1:])
    status, out, err = call(capsys, *(word.format(name) for word in FILE[command]))
    assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith("error: ")
    assert err.endswith(f"{name} cannot be read: {reason}\n")
