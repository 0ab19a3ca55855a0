"""The fused engine on the CUDA kernels with torch in the place of Paddle, as on a machine with a GPU and no Paddle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from alignment.architecture.decoder_config import DecoderConfig
from alignment.generation.engine import GenerationOptions
from alignment.generation.fused.fused_engine import FusedEngine
from alignment.generation.fused.fused_settings import FusedSettings
from alignment.ops.native import build
from alignment.ops.native.cuda.kinds import EMULATED
from alignment.ops.native.library import find_core

pytestmark = pytest.mark.interop
PROMPTS = [[5, 6, 7], [1], [9, 8, 7, 6, 5, 4, 3], [2] * 20, [30, 31]]
PROGRAM = """
import json, sys
from pathlib import Path
import cuda_fused
engines = cuda_fused.Engines(Path(sys.argv[1]), on_device=False)
engine = engines.small("cuda", "float32")
runs = [cuda_fused.generate(engine, json.loads(sys.argv[2]), 5) for _ in range(2)]
tokens = [[completion.token_ids.tolist() for completion in run] for run in runs]
print(json.dumps([sys.modules["paddle"].Tensor.__module__, engine._packed._graphs.num_captured, *tokens]))
"""


def test_the_engine_runs_with_torch_in_the_place_of_paddle(repo_root, monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    if find_core().core is None:
        pytest.skip(find_core().reason)
    benchmarks = str(repo_root / "benchmarks")
    command = [sys.executable, "-c", PROGRAM, str(build.find_or_build(kind=EMULATED).path), json.dumps(PROMPTS)]
    paths = os.pathsep.join([benchmarks, str(repo_root)])
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    module, captured, first, second = json.loads(done.stdout)
    assert module == "torch" and captured > 0
    monkeypatch.syspath_prepend(benchmarks)
    from cuda_cases import draw_weights
    from cuda_shapes import SMALL, core_sizes

    engine = FusedEngine(SimpleNamespace(config=DecoderConfig.from_dict(SMALL)), FusedSettings(block_tokens=16))
    drawn = draw_weights(core_sizes(SMALL)).items()
    engine.load_weights([(name, paddle.to_tensor(np.ascontiguousarray(x))) for name, x in drawn], 0)
    options = GenerationOptions(max_new_tokens=5, temperature=0.9)
    wanted = engine.generate(PROMPTS, options, seed=1, sequence_ids=range(len(PROMPTS)))
    assert first == second == [completion.token_ids.tolist() for completion in wanted]
