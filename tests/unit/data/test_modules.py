"""Users' own dataset modules, the example of PaddleNLP's README among them."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import pytest

import alignment.data
from alignment.data import PreferenceDataset, RawDataset
from alignment.data.raw.modules import ALIAS, load_dataset_modules
from alignment.errors import DataError

README_EXAMPLE = """
from datasets import load_dataset
from data import RawDataset, RawSample

class MyRawDataset(RawDataset):
    NAME = 'my-dataset-name'

    def __init__(self, path=None) -> None:
        # Load a dataset from Hugging Face or any other data source
        # self.data = load_dataset(path or 'my-organization/my-dataset')['train']
        self.data = [{
            'col1': 'question',
            'col2': 'answer1',
            'col3': 'answer2',
            'col4': 1,  # score of answer1
            'col5': 2  # score of answer2
        }] * 10  # dummy data for example

    def __getitem__(self, index: int) -> RawSample:
        data = self.data[index]
        # Construct a `RawSample` dictionary from your custom dataset item
        return RawSample(
            input=data['col1'],
            answer=data['col2'],
            other_answer=data['col3'],
            better=float(data['col4']) > float(data['col5']),
        )

    def __len__(self) -> int:
        return len(self.data)  # dataset size
"""


@pytest.fixture(autouse=True)
def clean_modules(monkeypatch, tmp_path):
    """Run in an empty folder and forget what a test imports."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    kept = sys.modules.pop(ALIAS, None)
    before, path = dict(sys.modules), list(sys.path)
    yield
    for name in sys.modules.keys() - before.keys():
        if name == ALIAS or name.startswith(("data.", "own_")):
            del sys.modules[name]
    if kept is not None:
        sys.modules[ALIAS] = kept
    assert sys.path == path


def write_module(folder, name: str, dataset: str, *, head: str = "from data import RawDataset, RawSample"):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(
        f"{head}\n\nclass Own(RawDataset):\n    NAME = {dataset!r}\n\n"
        "    def __getitem__(self, index):\n        return RawSample(input='a')\n\n"
        "    def __len__(self):\n        return 1\n"
    )
    return path


def test_the_readme_example_works_as_written(tmp_path, monkeypatch, tokenizer):
    package = ModuleType("datasets")
    package.load_dataset = None
    monkeypatch.setitem(sys.modules, "datasets", package)
    (tmp_path / "my_dataset.py").write_text(README_EXAMPLE)
    load_dataset_modules(["my_dataset.py"], tmp_path)
    dataset = PreferenceDataset({"my-dataset-name": 0.5}, tokenizer)
    assert len(dataset) == 5
    text = tokenizer.decode(dataset[0]["better_input_ids"], skip_special_tokens=False)
    assert RawDataset.load("my-dataset-name")[0]["better"] is False and text.endswith("</s>")


def test_files_are_looked_for_beside_the_json_then_in_the_current_folder(tmp_path):
    base = tmp_path / "json"
    write_module(base, "own_first.py", "modules-first")
    write_module(tmp_path / "cwd", "own_first.py", "modules-shadowed")
    write_module(tmp_path / "cwd" / "sub", "own_second.py", "modules-second")
    load_dataset_modules(["own_first.py", "sub/own_second.py"], base)
    assert len(RawDataset.load("modules-first")) == len(RawDataset.load("modules-second")) == 1
    with pytest.raises(DataError, match="unknown dataset 'modules-shadowed'"):
        RawDataset.load("modules-shadowed")
    with pytest.raises(DataError, match=f"no such file .tried {base}/own_none.py, {tmp_path}/cwd/own_none.py"):
        load_dataset_modules(["own_none.py"], base)


def test_dotted_names(tmp_path):
    write_module(tmp_path / "json" / "own_package", "part.py", "modules-dotted")
    load_dataset_modules("own_package.part", tmp_path / "json")
    assert len(RawDataset.load("modules-dotted")) == 1
    with pytest.raises(DataError, match=f"no module 'own_missing' .looked in {tmp_path}/json, {tmp_path}/cwd"):
        load_dataset_modules(["own_missing.part"], tmp_path / "json")


def test_loading_a_file_twice_gives_one_module(tmp_path):
    write_module(tmp_path / "json", "own_twice.py", "modules-twice")
    first = load_dataset_modules(["own_twice.py", "own_twice.py"], tmp_path / "json")
    assert first[0] is first[1]
    assert load_dataset_modules(["own_twice.py"], tmp_path / "json")[0] is first[0]


def test_two_modules_with_one_name_are_refused(tmp_path):
    write_module(tmp_path, "own_a.py", "modules-same")
    write_module(tmp_path, "own_b.py", "modules-same")
    with pytest.raises(DataError, match="'modules-same' of class own_b.*already taken by class own_a"):
        load_dataset_modules(["own_a.py", "own_b.py"], tmp_path)


def test_a_module_reloaded_by_python_registers_again(tmp_path):
    write_module(tmp_path / "cwd", "own_reload.py", "modules-reload")
    (module,) = load_dataset_modules(["own_reload"], tmp_path)
    importlib.reload(module)
    assert type(RawDataset.load("modules-reload")) is module.Own


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\nraise RuntimeError('no data today')\n", "RuntimeError: no data today .*own_bad.py, line 2"),
        ("x = 1\nraise SystemExit(0)\n", "SystemExit: 0 .*own_bad.py, line 2"),
        ("import own_missing_dependency\n", "ModuleNotFoundError: .*own_missing_dependency.*own_bad.py, line 1"),
        ("def f(:\n", "SyntaxError"),
        ("from data import Nothing\n", "ImportError: cannot import name 'Nothing'"),
    ],
)
@pytest.mark.parametrize("spec", ["own_bad.py", "own_bad"])
def test_errors_in_a_module_name_it_and_the_line(tmp_path, code, message, spec):
    (tmp_path / "own_bad.py").write_text(code)
    with pytest.raises(DataError, match=f"dataset module '{spec}' cannot be imported: {message}"):
        load_dataset_modules([spec], tmp_path)
    assert "own_bad" not in sys.modules


def test_the_alias_stays_and_holds_the_public_names_only(tmp_path):
    write_module(tmp_path, "own_c.py", "modules-alias")
    load_dataset_modules(["own_c.py"], tmp_path)
    assert sys.modules[ALIAS].RawDataset is RawDataset
    assert {name for name in vars(sys.modules[ALIAS]) if not name.startswith("_")} == set(alignment.data.__all__)


def test_a_folder_called_data_is_uncovered_again(tmp_path):
    (tmp_path / "cwd" / "data").mkdir()
    write_module(tmp_path / "cwd" / "data", "own_d.py", "modules-folder")
    load_dataset_modules(["data/own_d.py"], tmp_path)
    assert ALIAS not in sys.modules and len(RawDataset.load("modules-folder")) == 1


def test_a_package_called_data_is_never_hidden(tmp_path):
    folder = tmp_path / "cwd" / "data"
    write_module(folder, "mine.py", "modules-package", head="from alignment.data import RawDataset, RawSample")
    (folder / "__init__.py").write_text("OWN = 1\n")
    (module,) = load_dataset_modules(["data.mine"], tmp_path)
    assert module.__name__ == "data.mine" and sys.modules[ALIAS].OWN == 1
