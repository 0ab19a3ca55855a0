"""What goes to the terminal keeps its colours to itself."""

from rich.text import Text

from alignment.telemetry.console import stderr_console


def test_numbers_are_not_coloured():
    console = stderr_console()
    assert console.stderr
    [text] = console._collect_renderables(["loss 0.5"], sep=" ", end="")
    assert isinstance(text, Text) and text.spans == []
