"""Installation of ``alignment``; the tools are configured in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
KERNEL_SOURCES = (Path("csrc", "core"), Path("csrc", "cuda"))
KERNEL_SUFFIXES = (".cc", ".h", ".cu", ".sh")

CORE = [
    # Exact: the CPU behaviour and the few private calls we rely on were measured on this version. A GPU machine has
    # paddlepaddle-gpu of that version and requirements-gpu.txt instead (docs/gpu.md).
    "paddlepaddle==3.3.1",
    "numpy>=1.26",
    "safetensors>=0.4.3",
    "tokenizers>=0.19",
    "sentencepiece>=0.2",
    "pyyaml>=6",  # argument files of PaddleNLP's run_rl.py
    "jinja2>=3.1.6",
    "huggingface_hub>=0.23",
    "markupsafe>=2.1",
    "datasets>=2.19",
    "pyarrow>=15",
    # Checksums of checkpoints (training/checksums.py); datasets needs it too.
    "xxhash>=3.2",
    # The client of reward services (rollout/reward_service.py); paddlepaddle needs it too.
    "httpx>=0.27",
    # Routes and streams of `alignment serve`; pure Python, its own requirement (anyio) is httpx's too.
    "starlette>=0.40",
    # Listens for `alignment serve`; pure Python, on h11, which httpx needs too.
    "uvicorn>=0.30",
    "rich>=13.7",
    "visualdl>=2.5.3",
    "matplotlib>=3.8",
    # ROUGE of alignment eval: the numbers that others report are this package's.
    "rouge-score>=0.1.2",
]

EXTRAS = {
    # Another minor version of ruff has other rules: a fresh clone must lint as this one does.
    "test": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        # The tests take longer than an hour one after another, mostly waiting for single processes.
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "ruff==0.17.*",
        "import-linter>=2.15,<3",
        # Which tests run a line (tools/mutants.py).
        "coverage>=7.6",
    ],
    # peft: adapters are saved and read in its format.
    "interop": ["torch==2.13.0", "transformers>=5", "peft>=0.17"],
    # `make real`: the weights come from a GGUF file, the reward of its PPO from VADER's rules.
    "real": ["gguf>=0.18", "vaderSentiment>=3.3"],
    # Peers of the benchmarks, in a virtual environment of their own: these pins contradict newer packages.
    "peers": ["paddlenlp==3.0.0b4", "aistudio-sdk<0.3", "datasets>=2.19,<4", "pyarrow<21"],
}


def read_version() -> str:
    """Read the version without importing the package, whose requirements are not installed yet."""
    text = (ROOT / "alignment" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


class BuildWithKernelSources(build_py):
    """Put the kernel sources into the package: they are compiled at first use, not here (alignment/ops/native)."""

    def run(self) -> None:
        """Copy the modules, then the sources; a development install finds them in the checkout."""
        super().run()
        if not self.editable_mode:
            for folder in KERNEL_SOURCES:
                target = Path(self.build_lib, "alignment", "ops", "native", folder)
                self.mkpath(str(target))
                for source in sorted(path for path in (ROOT / folder).iterdir() if path.suffix in KERNEL_SUFFIXES):
                    self.copy_file(str(source), str(target / source.name))


setup(
    name="alignment",
    version=read_version(),
    description="Align language models on PaddlePaddle: SFT, reward models, DPO, PPO, GRPO",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10,<3.13",
    packages=find_packages(include=["alignment", "alignment.*"]),
    package_data={"alignment": ["data/shipped/**/*", "serve/page/*.*", "telemetry/report/**/*"]},
    include_package_data=False,
    cmdclass={"build_py": BuildWithKernelSources},
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["alignment=alignment.commands.main:main"]},
)
