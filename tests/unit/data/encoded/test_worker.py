"""The process that encodes: what it reads and writes, and that nothing else gets between."""

from __future__ import annotations

import importlib
import io
import pickle

import numpy as np
import pytest

from alignment.data.encoded.chunks import pack_rows
from alignment.data.encoded.mixture import Row
from alignment.data.encoded.pool import Worker
from alignment.data.encoded.worker import serve

LOUD = """
import os
import numpy as np
from alignment.data.encoded.chunks import Encoded

class Loud:
    last = 0

    def in_worker(self):
        working = Loud()
        working.last = 7
        return working

    def encode(self, row):
        print("a print of user code", os.environ.get("TOKENIZERS_PARALLELISM"), flush=True)
        os.write(1, b"a write of user code")
        return Encoded({"input_ids": np.array([row.index, self.last])})
"""
ROWS = [Row(number, 0, number + 3, "", {"input": "a"}, None) for number in range(2)]


@pytest.fixture
def loud(tmp_path, monkeypatch):
    """A dataset in a module of its own, which another process can import; encoding with it prints."""
    (tmp_path / "loud_rows.py").write_text(LOUD)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("loud_rows").Loud()


def _ids(chunk):
    return [chunk.store.read(number)["input_ids"].tolist() for number in range(chunk.store.size)]


def test_every_message_is_answered_until_the_source_ends(loud, capfd):
    source, target = io.BytesIO(pickle.dumps(loud) + pickle.dumps(pack_rows(ROWS)) * 2), io.BytesIO()
    serve(source, target)
    target.seek(0)
    assert [_ids(pickle.load(target)) for _ in range(2)] == [[[3, 7], [4, 7]]] * 2
    assert not target.read() and "a print of user code" in capfd.readouterr().out


def test_what_user_code_prints_in_a_worker_goes_to_stderr_and_not_among_the_samples(loud, capfd):
    worker = Worker(pickle.dumps(loud))
    chunks = [worker.encode(ROWS) for _ in range(2)]
    assert [chunk and _ids(chunk) for chunk in chunks] == [[[3, 7], [4, 7]]] * 2
    worker.end()
    said = capfd.readouterr()
    assert said.err.count("a write of user code") == 4 and not said.out
    assert said.err.count("a print of user code false\n") == 4, "threads of the library in each process"


def test_an_interrupt_is_left_to_the_parent(loud):
    worker = Worker(pickle.dumps(loud))
    assert worker.encode(ROWS) is not None
    worker._process.send_signal(2)
    assert np.array_equal(_ids(worker.encode(ROWS)), [[3, 7], [4, 7]])
    assert worker.end().startswith("was ended by SIGKILL (Killed)")
