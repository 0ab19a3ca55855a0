"""One process of a host encodes many rows, the others read them; what stops one stops all."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest

from alignment.arguments.keys.columns import ColumnArguments
from alignment.data import SupervisedDataset
from alignment.data.encode import EncodeOptions
from alignment.data.encoded import build
from alignment.data.sources.packing import TOKENIZER
from alignment.errors import DataError
from alignment.models.tokenizer.tokenizer import load_tokenizer
from alignment.runs import datasets as data_start
from tests.forked_ranks import run_forked

OPTIONS = EncodeOptions(template="tokenizer")


def open_rows(topology, folder, hosts):
    """Return (rows encoded by this process, ids of all rows), as a trainer opens its dataset."""
    encoded = []
    encode_row = SupervisedDataset.encode_row
    SupervisedDataset.encode_row = lambda self, row, encoder: encoded.append(1) or encode_row(self, row, encoder)
    data_start.socket = SimpleNamespace(gethostname=lambda: hosts[topology.world.index])
    data = SimpleNamespace(dataloader_num_workers=0, encoded_cache_dir=None)
    training = SimpleNamespace(seed=1, disable_tqdm=True)
    # Each host has a disk of its own.
    output = folder / hosts[topology.world.index]
    parsed = SimpleNamespace(data=data, training=training, base_dir=folder, columns=ColumnArguments(), groups={})
    start = SimpleNamespace(parsed=parsed, topology=topology, output_dir=output)
    rows = f"jsonl:1:{folder / 'rows.jsonl'}"
    dataset = data_start.open_dataset(start, SupervisedDataset, rows, load_tokenizer(TOKENIZER), OPTIONS)
    return len(encoded), [sample["input_ids"].tolist() for sample in dataset]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Rows that count as many."""
    rows = [{"input": f"pack rope {number}", "answer": "rope done"} for number in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(build.Encoding, "__init__", _many(build.Encoding.__init__))
    return tmp_path


def _many(original):
    return lambda self, **fields: original(self, **{**fields, "many": 1})


def test_the_first_process_of_each_host_encodes(folder):
    results = run_forked(open_rows, 4, folder, ["a", "b", "a", "b"])
    assert [encoded for encoded, _ in results] == [30, 30, 0, 0]
    assert all(rows == results[0][1] for _, rows in results) and len(results[0][1]) == 30


def test_a_row_that_stops_one_process_stops_all_with_one_message(folder):
    with (folder / "rows.jsonl").open("a") as stream:
        stream.write('{"input": "pack rope", "answer": 5}\n')
    results = run_forked(open_rows, 2, folder, ["a", "a"])
    assert all(isinstance(result, DataError) for result in results), results
    assert len({str(result) for result in results}) == 1 and "line 31" in str(results[0])
    assert not list((folder / "a").rglob("index.json")), os.listdir(folder)
