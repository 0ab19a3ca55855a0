"""The output folder of one stage is a model path of the next."""

from __future__ import annotations

import pytest

from alignment.errors import ModelFolderError
from alignment.models.folders.hub import resolve_model_folder, resolve_tokenizer_folder


@pytest.fixture
def run(tmp_path):
    """Return a function: a run's folder that holds the models named."""

    def make(*parts):
        folder = tmp_path / "-".join(parts)
        for part in parts:
            (folder / part).mkdir(parents=True)
            (folder / part / "config.json").write_text("{}")
        return folder

    return make


@pytest.mark.parametrize(
    ("held", "wanted", "found"),
    [
        (("policy",), ("policy",), "policy"),
        (("reward",), ("policy", "reward", "value"), "reward"),
        (("policy", "value"), ("policy",), "policy"),
        (("policy", "value"), ("value", "reward", "policy"), "value"),
        (("policy",), ("value", "reward", "policy"), "policy"),
    ],
)
def test_the_stage_takes_the_model_it_can_start_from(run, held, wanted, found, caplog):
    folder = run(*held)
    assert resolve_model_folder(str(folder), parts=wanted) == folder / found
    assert resolve_model_folder(folder / found, parts=wanted) == folder / found


def test_a_run_without_such_a_model_is_refused(run, tmp_path):
    folder = run("reward")
    with pytest.raises(ModelFolderError, match=r"must be in policy/; this run has only reward/"):
        resolve_model_folder(folder, parts=("policy",))
    with pytest.raises(ModelFolderError, match=r"config\.json: no such file"):
        resolve_model_folder(tmp_path)


def test_a_run_that_trained_an_adapter_says_how_to_merge_it(tmp_path):
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(ModelFolderError) as error:
        resolve_model_folder(tmp_path)
    assert "this is an adapter of org/base, not a whole model" in str(error.value)
    assert f"alignment merge {tmp_path / 'policy'} MERGED" in str(error.value)


def test_a_tokenizer_needs_no_model(run, tmp_path):
    alone = tmp_path / "tokenizer"
    alone.mkdir()
    assert resolve_tokenizer_folder(str(alone)) == alone
    assert resolve_tokenizer_folder(str(run("reward"))) == tmp_path / "reward" / "reward"
