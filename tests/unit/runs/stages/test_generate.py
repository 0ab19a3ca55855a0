"""alignment generate: every prompt once, in order, the same file however it is made."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys

import pytest

from alignment.arguments.parser import parse_arguments
from alignment.data import PromptOnlyDataset
from alignment.data.encode import EncodeOptions
from alignment.errors import ArgumentError, DataError, ProcessError, UserError
from alignment.generation.engine import GenerationOptions
from alignment.models.folders.hub import load_causal_lm, random_causal_lm
from alignment.models.folders.saving import save_model
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.parity.subjects import SMALL_MODEL, make_models
from alignment.runs.stages import generate as stages_generate
from alignment.runs.stages import workers
from alignment.runs.stages.generate import Generation
from alignment.runs.stages.generate_arguments import GROUPS
from alignment.runs.stages.policy import open_engine
from alignment.runs.stages.stage import run_stage

PROMPTS = [f"pack {thing}" for thing in ("lamp", "tent", "boots", "lamp", "rope knife", "coat", "apple bread")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    make_models(folder)
    return folder


@pytest.fixture
def written(models, tmp_path):
    """Arguments of a small run in ``tmp_path``."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text, "answer": text[5:]}) + "\n" for text in PROMPTS))
    return {
        "model_name_or_path": str(models / "actor"),
        "prompts": str(prompts),
        "output_file": str(tmp_path / "answers.jsonl"),
        "K": 3,
        "max_new_tokens": 8,
        "device": "cpu",
        "per_device_rollout_batch_size": 2,
    }


def run(written, **changes):
    """Return the bytes of the answers."""
    parsed = parse_arguments(GROUPS, written | changes)
    run_stage(Generation(parsed))
    with open(parsed.generate.output_file, "rb") as file:
        return file.read()


def rows(content):
    return [json.loads(line) for line in content.decode().splitlines()]


def test_each_prompt_is_answered_once_in_order_with_tokens_and_log_probs(written, models):
    found = rows(run(written))
    assert [row["prompt"] for row in found] == PROMPTS
    assert [row["label"] for row in found] == [text[5:] for text in PROMPTS]
    tokenizer = load_tokenizer(models / "actor")
    engine = open_engine(load_causal_lm(models / "actor"), len(tokenizer), dtype="float32")
    options = EncodeOptions(template="tokenizer", keeps_duplicates=True)
    prompts = PromptOnlyDataset({"jsonl": {"path": written["prompts"]}}, tokenizer, options=options)
    for number, row in enumerate(found):
        assert row["index"] == number
        answers = engine.generate(
            [prompts[number]["input_ids"]] * 3,
            GenerationOptions(max_new_tokens=8, stop_token_ids=(tokenizer.eos_token_id,)),
            seed=42,
            sequence_ids=range(3 * number, 3 * number + 3),
        )
        assert row["num_tokens"] == [len(answer.token_ids) for answer in answers]
        assert row["finish_reasons"] == [answer.finish_reason for answer in answers]
        assert row["logprobs"] == pytest.approx([float(answer.logprobs.sum()) for answer in answers], abs=1e-4)
        texts = [tokenizer.decode(answer.token_ids.tolist(), skip_special_tokens=True) for answer in answers]
        assert row["responses"] == texts


def test_the_file_does_not_depend_on_what_runs_side_by_side_or_in_how_many_processes(written, tmp_path):
    whole = run(written)
    assert run(written, output_file=str(tmp_path / "wide.jsonl"), per_device_rollout_batch_size=32) == whole
    assert run(written, output_file=str(tmp_path / "two.jsonl"), num_workers=2) == whole
    assert {path.name for path in tmp_path.iterdir()} == {"prompts.jsonl", "answers.jsonl", "wide.jsonl", "two.jsonl"}


def test_slices_are_the_whole_cut_in_pieces(written, tmp_path):
    whole = run(written)
    slices = [
        run(written, iter=number, rollout_batch_size=3, output_file=str(tmp_path / f"{number}.jsonl"))
        for number in range(3)
    ]
    assert b"".join(slices) == whole
    assert [len(rows(part)) for part in slices] == [3, 3, 1]
    with pytest.raises(DataError, match=r"7 prompts have no slice of that number .* \(allowed: 0 to 2\)"):
        run(written, iter=3, rollout_batch_size=3, output_file=str(tmp_path / "none.jsonl"))
    with pytest.raises(ArgumentError, match="iter=1 needs rollout_batch_size"):
        run(written, iter=1, output_file=str(tmp_path / "none.jsonl"))


def interrupt(written, monkeypatch, after):
    """Stop a run after ``after`` units."""
    parsed = parse_arguments(GROUPS, written)
    made = Generation.rows

    def stopping(self, units):
        yield from itertools.islice(made(self, units), after)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Generation, "rows", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_stage(Generation(parsed))


def test_an_interrupted_run_continues_to_the_same_file(written, tmp_path, monkeypatch, caplog):
    whole = run(written, output_file=str(tmp_path / "whole.jsonl"))
    interrupt(written, monkeypatch, after=2)
    (part,) = (tmp_path / "answers.jsonl.parts").glob("part-*.jsonl")
    done = [line.partition(b"\t") for line in part.read_bytes().splitlines(keepends=True)]
    assert [(int(number), line) for number, _, line in done] == [*enumerate(whole.splitlines(keepends=True)[:4])]
    with part.open("ab") as file:
        file.write(b'4\t{"index": 4, "prompt"')
    assert not (tmp_path / "answers.jsonl").exists()
    assert run(written) == whole
    assert "4 rows of 7 were there from before: continued" in caplog.messages


def test_parts_made_with_other_arguments_are_not_mixed(written, tmp_path, monkeypatch):
    interrupt(written, monkeypatch, after=1)
    with pytest.raises(ArgumentError, match=r"holds a part of it that was made with another temperature: "):
        run(written, temperature=0.5)
    fresh = run(written, temperature=0.5, output_file=str(tmp_path / "fresh.jsonl"))
    assert run(written, temperature=0.5, overwrite=True) == fresh


def test_a_refused_start_does_not_stand_in_the_way_of_the_right_one(written, tmp_path):
    with pytest.raises(ArgumentError, match="stop_token_ids=9999"):
        run(written, eos_ids=[9999])
    run(written)


def test_changed_labels_are_not_mixed(written, tmp_path, monkeypatch):
    interrupt(written, monkeypatch, after=1)
    text = (tmp_path / "prompts.jsonl").read_text()
    (tmp_path / "prompts.jsonl").write_text(text.replace('"answer": "lamp"', '"answer": "oil lamp"'))
    with pytest.raises(ArgumentError, match="made with another prompts: "):
        run(written)


def test_room_is_made_for_the_prompts_that_are_there(written, monkeypatch):
    found = {}

    def opened(model, vocabulary, **options):
        found.update(options)
        raise RuntimeError("no memory")

    monkeypatch.setattr(stages_generate, "open_engine", opened)
    with pytest.raises(UserError, match=r"no memory. Give a lower per_device_rollout_batch_size \(now 2\)"):
        run(written)
    assert found["max_length"] < 30


def test_keys_without_effect_are_named(written, caplog):
    run(written, do_sample=False, top_p=0.5, rollout_batch_size=2)
    assert [message for message in caplog.messages if "has no effect" in message] == [
        "rollout_batch_size=2 has no effect: iter is null: all prompts are answered",
        "top_p=0.5 has no effect: do_sample is false: the likeliest token is always taken",
    ]


def test_what_overwrites_keeps_its_own_lock(written, tmp_path, monkeypatch):
    interrupt(written, monkeypatch, after=1)
    made, seen = Generation.rows, []

    def watching(self, units):
        seen.append((tmp_path / "answers.jsonl.parts" / ".lock").exists())
        return made(self, units)

    monkeypatch.setattr(Generation, "rows", watching)
    run(written, temperature=0.5, overwrite=True)
    assert seen == [True]


def test_an_existing_file_is_kept_unless_told(written):
    whole = run(written)
    with pytest.raises(ArgumentError, match="exists: name another, or give --overwrite true"):
        run(written)
    assert run(written, overwrite=True) == whole


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_dies_is_named_and_the_next_start_continues(written, tmp_path, monkeypatch, victim):
    whole = run(written, output_file=str(tmp_path / "whole.jsonl"))
    start = workers._start

    def start_and_kill(stage, parsed, number, part, share):
        worker = start(stage, parsed, number, part, share)
        if number == victim:
            worker.process.send_signal(signal.SIGKILL)
        return worker

    with monkeypatch.context() as patch:
        patch.setattr(workers, "_start", start_and_kill)
        with pytest.raises(ProcessError, match=rf"worker {victim} was ended by SIGKILL .*; what was done is kept"):
            run(written, num_workers=2)
    parts = tmp_path / "answers.jsonl.parts"
    (parts / f"part-{1 - victim:05}.jsonl").touch()
    assert run(written, num_workers=3) == whole
    assert not parts.exists()


def test_two_runs_do_not_write_one_file(written, tmp_path):
    (tmp_path / "answers.jsonl.parts").mkdir()
    code = (
        "import sys, time; from pathlib import Path; from alignment.runs.output_lock import OutputLock\n"
        "OutputLock(Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "answers.jsonl.parts")], stdout=subprocess.PIPE, env=os.environ
    )
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ArgumentError, match=rf"is in use by process {other.pid} "):
            run(written)
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 200}, "max_dec_len=200 leaves no room for a prompt: the model has 128 positions"),
        ({"max_src_len": 125}, "max_prompt_len=125 and max_dec_len=8 are more than the model's 128 positions"),
        ({"min_dec_len": 9}, "min_dec_len=9 is more than max_dec_len=8"),
        ({"device": "tpu"}, "device: expected one of 'cpu', 'gpu'"),
        ({"eos_ids": [9999]}, "stop_token_ids=9999 is not a token of the model"),
    ],
)
def test_bad_arguments(written, changes, message):
    with pytest.raises(ArgumentError) as error:
        run(written, **changes)
    assert message in str(error.value)


def test_prompts_on_both_sides_of_longropes_old_context_are_answered(written, models, tmp_path, caplog):
    """Prompts of 5, 8 and 13 tokens; an answer of 6 to the second would cross 12."""
    scaling = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4}
    own = {"model_type": "phi3", "original_max_position_embeddings": 12, "rope_scaling": scaling}
    tokenizer = load_tokenizer(models / "actor")
    (tmp_path / "config.json").write_text(json.dumps({**SMALL_MODEL, **own, "vocab_size": len(tokenizer)}))
    model = random_causal_lm(tmp_path / "config.json", seed=1, tokenizer=tokenizer)
    save_model(tmp_path / "actor", model, tokenizer)
    words = ("lamp", "lamp tent boots coat", "lamp tent boots coat rope knife apple bread map")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"pack {text}"}) + "\n" for text in words))
    long = {"model_name_or_path": str(tmp_path / "actor"), "max_new_tokens": 6, "min_dec_len": 6, "K": 1}
    found = rows(run(written, **long))
    assert [row["prompt"] for row in found] == [f"pack {words[0]}", f"pack {words[2]}"]
    assert [row["num_tokens"] for row in found] == [[6], [6]]
    assert "prompts of 7 to 12 tokens count as too long (on_overlong)" in caplog.text
    with pytest.raises(DataError, match="cross original_max_position_embeddings"):
        run(written, **long, on_overlong="error", output_file=str(tmp_path / "none.jsonl"))
