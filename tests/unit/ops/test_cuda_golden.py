"""The golden files that the CUDA kernels are checked against are what the CPU kernels compute today."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.mark.parametrize("name", ["decoder", "sampler"])
def test_golden_files_are_what_the_cpu_kernels_compute(core, repo_root: Path, monkeypatch, name):
    monkeypatch.syspath_prepend(str(repo_root / "benchmarks"))
    import cuda_golden

    records = {"decoder": cuda_golden.decoder_records, "sampler": cuda_golden.sampler_records}[name](core)
    path = repo_root / "tests" / "golden" / f"cuda_{name}.npz"
    assert path.stat().st_size < 200_000
    with np.load(path) as golden:
        assert set(golden) == set(records)
        for key, wanted in records.items():
            if key.endswith("tokens") or key == "rows":
                assert np.array_equal(golden[key], wanted), key
            else:
                np.testing.assert_allclose(golden[key], wanted, rtol=1e-4, atol=1e-4, err_msg=key)
