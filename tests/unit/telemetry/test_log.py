"""Log lines reach stderr and run.log; other ranks only warn."""

from __future__ import annotations

import logging

import pytest

from alignment.errors import UserError
from alignment.telemetry import log


@pytest.fixture(autouse=True)
def restored_logger():
    """Undo what ``configure`` does to the logger of the package."""
    logger = logging.getLogger("alignment")
    yield
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def test_lines_go_to_stderr_and_file_once(tmp_path, capsys):
    logging.getLogger().addHandler(noisy := logging.StreamHandler())
    try:
        log.configure(output_dir=tmp_path, is_main=True)
        log.configure(output_dir=tmp_path, is_main=True)
        log.info("kept 100% of [bold]rows[/bold]")
        log.warn("length [/]")
    finally:
        logging.getLogger().removeHandler(noisy)
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert first.endswith("] kept 100% of [bold]rows[/bold]")
    assert second.endswith("] warning: length [/]")
    written = (tmp_path / "run.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in written] == [
        "INFO kept 100% of [bold]rows[/bold]",
        "WARNING length [/]",
    ]


def test_other_ranks_warn_only_and_write_no_file(tmp_path, capsys):
    log.configure(output_dir=tmp_path, is_main=False)
    log.info("quiet")
    log.warn("loud")
    assert capsys.readouterr().err.splitlines()[0].endswith("warning: loud")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_one_message(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*out/run\.log"):
        log.configure(output_dir=tmp_path / "out", is_main=True)


def test_full_disk_says_so_once_and_goes_on(tmp_path, capsys):
    (tmp_path / "run.log").symlink_to("/dev/full")
    log.configure(output_dir=tmp_path, is_main=True)
    log.info("one")
    log.info("two")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("] ", 1)[1].split(":")[0] for line in lines] == ["one", "warning", "two"]
    assert "No space left" in lines[1]


def test_requests_of_the_http_client_are_not_shown():
    log.configure(output_dir=None, is_main=True)
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)
    assert logging.getLogger("httpx").isEnabledFor(logging.WARNING)
