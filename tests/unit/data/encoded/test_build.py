"""Whoever encodes the rows, and whether they were kept or not: the same samples, the same order, the same account."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from alignment.data import (
    PreferenceDataset,
    PromptOnlyDataset,
    SafetyPreferenceDataset,
    SupervisedDataset,
    UnpairedPreferenceDataset,
)
from alignment.data.encode import EncodeOptions
from alignment.data.encoded import build, cache, pool
from alignment.data.encoded.build import Encoding
from alignment.data.loader import BatchLoader
from alignment.data.sources.packing import ITEMS, TOKENIZER
from alignment.errors import DataError
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.telemetry import log

KINDS = [SupervisedDataset, PreferenceDataset, SafetyPreferenceDataset, PromptOnlyDataset, UnpairedPreferenceDataset]
OPTIONS = EncodeOptions(max_length=24, template="tokenizer")


def make_rows(count):
    """Rows for every kind: some too long, some empty, one with a broken text, prompts that come twice."""
    rows = []
    for number in range(count):
        words = [ITEMS[number // step % len(ITEMS)] for step in (1, 12, 144)]
        answer = " ".join(words * (8 if number % 10 == 4 else 1)) if number % 10 != 6 else ""
        row = {"input": f"pack {' '.join(words)}", "answer": answer, "other_answer": "rope done"}
        flags = {"better": number % 2 == 0, "safer": number % 4 == 0, "is_safe": True, "is_other_safe": number % 3 == 0}
        rows.append({**row, **flags, "input": "\ud800"} if number == 77 else {**row, **flags})
    return [*rows, *rows[:20]]


@pytest.fixture
def tokenizer():
    return load_tokenizer(TOKENIZER)


@pytest.fixture
def rows():
    return make_rows(220)


@pytest.fixture
def name(make_dataset, rows, monkeypatch):
    """A dataset whose rows are encoded 50 at a time."""
    monkeypatch.setattr(build, "ROWS_PER_BATCH", 50)
    return make_dataset(rows, "many")


def contents(dataset):
    samples = [
        {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in sample.items()}
        for sample in dataset
    ]
    return samples, dataset.ledger.as_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_kept_and_lazy_datasets_equal_the_one_encoded_here(kind, name, tokenizer, tmp_path):
    given = {"options": OPTIONS, "seed": 3}
    expected = contents(kind({name: 1.5}, tokenizer, **given))
    assert 40 < len(expected[0]) < 720 and len(expected[1]["rows"]) >= 1
    kept = Encoding(num_workers=0, cache_dir=tmp_path / "kept", many=1)
    for _ in range(2):
        assert contents(kind({name: 1.5}, tokenizer, encoding=kept, **given)) == expected
    [entry] = (tmp_path / "kept").iterdir()
    assert len(list(entry.glob("*.npy"))) >= 3
    assert contents(kind({name: 1.5}, tokenizer, True, **given)) == expected


def test_a_process_encodes_with_a_tokenizer_for_that(name, tokenizer):
    dataset = SupervisedDataset({name: 1.5}, tokenizer, options=OPTIONS)
    working = dataset.for_worker().in_worker()
    assert working.tokenizer is not tokenizer and working.tokenizer.vocab == tokenizer.vocab
    assert working._encoder._cutting is working.tokenizer and dataset.tokenizer is tokenizer


@pytest.mark.parametrize("kind", [SupervisedDataset, PromptOnlyDataset])
def test_processes_give_the_same_as_this_one(kind, name, tokenizer):
    expected = contents(kind({name: 1.5}, tokenizer, options=OPTIONS))
    encoding = Encoding(num_workers=2, many=1)
    assert contents(kind({name: 1.5}, tokenizer, options=OPTIONS, encoding=encoding)) == expected


def test_a_process_that_dies_is_told_by_its_signal_and_its_rows_are_encoded(name, tokenizer, monkeypatch, caplog):
    expected = contents(SupervisedDataset(name, tokenizer, options=OPTIONS))

    class Doomed(pool.Worker):
        def encode(self, rows):
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            return super().encode(rows)

    monkeypatch.setattr(pool, "Worker", Doomed)
    encoding = Encoding(num_workers=2, many=1)
    assert contents(SupervisedDataset(name, tokenizer, options=OPTIONS, encoding=encoding)) == expected
    assert "a worker process that encodes rows was ended by SIGKILL" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_overlong": "error"}, "'test-many', row 4: 7 prompt tokens and 25 answer tokens do not fit"),
        ({"on_bad_row": "error"}, "'test-many', row 6: empty answer; set on_bad_row"),
    ],
)
def test_a_row_that_stops_the_run_is_named_from_another_process(name, tokenizer, options, message):
    options = EncodeOptions(max_length=24, template="tokenizer", **options)
    for encoding in (Encoding(num_workers=0), Encoding(num_workers=1, many=1)):
        with pytest.raises(DataError, match=message):
            SupervisedDataset(name, tokenizer, options=options, encoding=encoding)


def test_a_dataset_class_of_the_user_is_encoded_here_and_not_kept(name, tokenizer, monkeypatch, tmp_path):
    class Own(SupervisedDataset):
        def encode_row(self, row, encoder):
            return super().encode_row(row, encoder)._replace(reasons=("truncated_left",))

    monkeypatch.setattr(build, "Pool", None)
    encoding = Encoding(num_workers=0, cache_dir=tmp_path, many=1)
    assert SupervisedDataset(name, tokenizer, options=OPTIONS, encoding=encoding).ledger.total("truncated_left") == 0
    encoding = Encoding(num_workers=2, cache_dir=tmp_path, many=1)
    assert Own(name, tokenizer, options=OPTIONS, encoding=encoding).ledger.total("truncated_left") == 239
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def keep(name, tokenizer, tmp_path):
    """Encode, or read what was kept."""

    def run(**options):
        options = EncodeOptions(**{"max_length": 24, "template": "tokenizer", **options})
        encoding = Encoding(num_workers=0, cache_dir=tmp_path / "kept", many=1)
        return SupervisedDataset(name, tokenizer, options=options, encoding=encoding)

    return run


@pytest.fixture
def count_encoded(monkeypatch):
    """How many rows were really encoded."""
    counted = []
    encode_row = SupervisedDataset.encode_row
    monkeypatch.setattr(
        SupervisedDataset, "encode_row", lambda self, row, encoder: counted.append(1) or encode_row(self, row, encoder)
    )
    return lambda: len([counted.pop() for _ in range(len(counted))])


def test_kept_rows_are_not_encoded_again_unless_rows_or_options_change(keep, count_encoded, rows, tmp_path):
    keep()
    assert count_encoded() == 239
    keep()
    assert count_encoded() == 0
    keep(max_length=30)
    assert count_encoded() == 239 and len(list((tmp_path / "kept").iterdir())) == 2
    rows[0]["answer"] = "rope"
    keep()
    assert count_encoded() == 239
    assert len(list((tmp_path / "kept").iterdir())) == 2, "the entry of the older rows goes"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda entry: flip(entry / "0.values.npy"), "0.values.npy changed since it was written"),
        (lambda entry: flip(entry / "order.npy"), "order.npy changed"),
        (lambda entry: (entry / "1.bounds.npy").unlink(), "a file is missing"),
        (lambda entry: (entry / "index.json").write_text("{"), "Expecting property name"),
        (lambda entry: (entry / "index.json").write_text("[]"), "list indices"),
    ],
)
def test_damaged_entries_are_told_and_made_anew(keep, count_encoded, tmp_path, caplog, harm, message):
    expected = contents(keep())
    count_encoded()
    [entry] = (tmp_path / "kept").iterdir()
    harm(entry)
    assert contents(keep()) == expected and count_encoded() == 239
    assert f"encoded rows in {entry} are damaged" in caplog.text and message in caplog.text
    assert contents(keep()) == expected and count_encoded() == 0


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(bytes(content))


def test_a_folder_that_cannot_be_written_costs_a_warning(keep, tmp_path, caplog):
    (tmp_path / "kept").write_text("a file")
    assert len(keep()) > 100
    assert f"encoded rows could not be cached in {tmp_path / 'kept'}" in caplog.text


def test_what_a_run_left_half_written_is_no_entry(keep, count_encoded, monkeypatch, tmp_path):
    monkeypatch.setattr(cache.os, "rename", lambda source, target: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        keep()
    monkeypatch.undo()
    assert list((tmp_path / "kept").iterdir()) == []


def test_two_runs_that_write_the_same_entry_both_go_on(keep, monkeypatch, tmp_path):
    expected = contents(keep())
    monkeypatch.setattr(cache.EncodedCache, "may_hold", property(lambda self: False))
    assert contents(keep()) == expected
    monkeypatch.setattr(cache.EncodedCache, "load", lambda self, rows: pytest.fail("read"))
    assert contents(keep()) == expected and len(list((tmp_path / "kept").iterdir())) == 1


def test_a_position_taken_without_the_cache_continues_with_it(keep, name, tokenizer):
    here = BatchLoader(SupervisedDataset(name, tokenizer, options=OPTIONS), batch_size=4, seed=1)
    stream = here.cycle()
    for _ in range(7):
        next(stream)
    state = here.state_dict()
    keep()
    resumed = BatchLoader(keep(), batch_size=4, seed=1)
    resumed.load_state_dict(state)
    for first, second in zip([next(stream) for _ in range(60)], resumed.cycle(), strict=False):
        assert [row["input_ids"].tolist() for row in first] == [row["input_ids"].tolist() for row in second]


def test_lazy_rows_are_read_at_the_first_use_only(make_dataset, tokenizer):
    rows = make_rows(3)[:3]
    dataset = SupervisedDataset(make_dataset(rows, "late"), tokenizer, lazy_tokenization=True, options=OPTIONS)
    rows[0]["answer"] = 5
    with pytest.raises(DataError, match="'test-late', row 0: field 'answer' must be a string"):
        len(dataset)
    rows[0]["answer"] = "rope"
    assert len(dataset) == 3 and dataset.ledger.total() == 0
    rows[0]["answer"] = 5
    assert len(dataset) == 3


def test_speed_and_time_left_are_told_now_and_then(name, tokenizer, monkeypatch, capsys):
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr(build, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    log.configure(output_dir=None, is_main=True)
    SupervisedDataset(name, tokenizer, options=OPTIONS, encoding=Encoding(num_workers=0, many=1))
    lines = [line for line in capsys.readouterr().err.splitlines() if "encoding supervised rows" in line]
    assert len(lines) == 2, "every second batch of 50: a line in 12 seconds"
    assert "100/240 (42%)  rows/s 8 " in lines[0] and "200/240 (83%)  rows/s 8 " in lines[1] and "left" in lines[0]


@pytest.mark.parametrize(("cores", "wanted", "workers"), [(1, None, 1), (64, None, 16), (64, 3, 3), (2, 9, 9)])
def test_as_many_processes_encode_as_there_are_cores_but_no_more_than_16(cores, wanted, workers, monkeypatch):
    made = []

    def pool(dataset, encode, *, num_workers):
        made.append(num_workers)
        return SimpleNamespace(encode="in processes")

    monkeypatch.setattr(build, "Pool", pool)
    monkeypatch.setattr(build.os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    job = SimpleNamespace(is_own=True, for_worker=lambda: "dataset", encode=None)
    with build._run(job, Encoding(num_workers=wanted)) as encode:
        assert encode == "in processes"
    assert made == [workers]
