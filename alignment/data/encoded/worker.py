"""A worker process: reads packed rows from stdin, writes encoded chunks to stdout, and exits with its parent.

It imports only the data layer, never the script that the user started.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from typing import Any, BinaryIO

from alignment.data.encoded.chunks import encode_chunk, unpack_rows


def serve(source: BinaryIO, target: BinaryIO) -> None:
    """Encode every message of ``source``; the first one is the dataset to encode with."""
    dataset: Any = pickle.load(source).in_worker()
    while True:
        try:
            packed: bytes = pickle.load(source)
        except EOFError:
            return
        chunk = encode_chunk(dataset.encode, unpack_rows(packed))
        pickle.dump(chunk, target, protocol=pickle.HIGHEST_PROTOCOL)
        target.flush()


def main() -> None:
    """Serve the parent process; prints go to stderr, and Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    target = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, target)


if __name__ == "__main__":
    main()
