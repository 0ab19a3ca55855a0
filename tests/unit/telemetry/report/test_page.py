"""The pages show what is there, escape what users wrote, run their own two scripts only, and need no network."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from importlib import resources

import pytest

from alignment.errors import UserError
from alignment.telemetry.report.page import refuse_foreign_file, write_comparison, write_report
from alignment.telemetry.report.run_files import read_run_files
from alignment.telemetry.writers import open_writers

EVIL = '</script><script>alert("x")</script><img src=http://example.org/a.png onerror=alert(1)>\''
UPLOT = {
    # Of uPlot 1.6.32 as the npm registry has it; a new version is a new checksum.
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}


class Page(HTMLParser):
    """What a browser would find in a page: tags with their attributes, the text of scripts, all other text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs).get("type"), ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            kind, text = self.scripts.pop()
            self.scripts.append((kind, text + data))
        elif self.cdata_elem is None:
            self.text += " " + data

    @property
    def data(self) -> dict:
        """What the charts are drawn from."""
        (data,) = [json.loads(text) for kind, text in self.scripts if kind == "application/json"]
        return data


@pytest.fixture
def run_folder(tmp_path):
    """A folder as a short run leaves it."""
    folder = tmp_path / "run & <b>"
    writers = open_writers(["none"], output_dir=folder)
    writers.write(0, {"eval/reward": 0.3})
    for step in range(1, 5):
        writers.write(
            step,
            {
                "train/reward": step / 2,
                "train/kl_divergence": step / 10,
                "critic/loss": math.nan,
                "train/kl_coeff": 0.02,
                f"policy/{EVIL}": 1.0 * step,
            },
        )
    writers.write(4, {"eval/reward": 0.5})
    for step in (0, 4):
        rows = [{"prompt": f"p{i} {EVIL}", "response": f"r{i} at {step} {EVIL}", "score": i * 1.0} for i in range(8)]
        writers.write_samples(step, rows)
    writers.close()
    ledger = {"train": {"datasets": {EVIL: {"selected": 52002, "used": 51990}}, "rows": []}}
    (folder / "ledger.json").write_text(json.dumps(ledger))
    (folder / "arguments.json").write_text(json.dumps({"kl_coeff": {"value": EVIL, "origin": "file"}}))
    (folder / "plots").mkdir()
    (folder / "plots" / "calibration.png").write_bytes(b"\x89PNG")
    return folder


def test_everything_is_on_the_page(run_folder):
    path = write_report(run_folder, title=f"Demo {EVIL}", summary={"eval/reward": (0.3, 0.5), "Seconds": 12})
    assert path == run_folder / "report.html"
    page = path.read_text()
    shown = Page(page).text
    for text in (
        "run & <b>, steps 0 to 4", "change +0.2", "train/reward bought with KL", "4 NaN or infinite, first at step 1",
        f"r7 at 4 {EVIL}", f"r7 at 0 {EVIL}", "52,002", "kl_coeff", "file", f"policy/{EVIL}", f"Demo {EVIL}",
        "Mean score of one response to each held-out prompt.", "2 metrics that never change, or have a single value",
    ):  # fmt: skip
        assert text in shown, text
    assert f'src="data:image/png;base64,{base64.b64encode(bytes([0x89]) + b"PNG").decode()}"' in page


def test_training_and_evaluation_share_a_chart_that_says_where_the_run_ends(run_folder):
    page = Page(write_report(run_folder, title="t", summary={}).read_text())
    chart = page.data["chart-0"]
    assert (chart["unit"], chart["ends"], chart["log"]) == ("score", [0, 4], False)
    assert [(line["x"], line["y"]) for line in chart["lines"]] == [
        ([1, 2, 3, 4], [0.5, 1.0, 1.5, 2.0]), ([0, 4], [0.3, 0.5]),
    ]  # fmt: skip
    assert [line["colour"] for line in chart["lines"]] == [0, 1]


@pytest.mark.parametrize("several", [False, True])
def test_no_text_of_a_user_becomes_a_tag_and_nothing_is_fetched(run_folder, tmp_path, several):
    if several:
        runs = {f"{name} {EVIL}": read_run_files(run_folder) for name in "ab"}
        path = write_comparison(runs, tmp_path / "both.html")
    else:
        path = write_report(run_folder, title=EVIL, summary={EVIL: EVIL})
    source = path.read_text()
    page = Page(source)
    assert [kind for kind, _ in page.scripts] == ["application/json", None, None]
    assert all("http" not in (attributes.get("src") or "") for _, attributes in page.tags)
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    links = [attributes[name] for _, attributes in page.tags for name in ("src", "href") if name in attributes]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links), links
    assert "alert" not in "".join(text for kind, text in page.scripts if kind is None)
    assert not re.search(r"@import|url\(", source.split("</head>")[0])


def test_the_policy_lets_only_the_scripts_of_the_page_run(run_folder):
    page = Page(write_report(run_folder, title="t", summary={}).read_text())
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    hashes = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for kind, text in page.scripts if not kind
    ]
    assert len(hashes) == 2
    scripts = " ".join(f"'sha256-{one}'" for one in hashes)
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {scripts}"


@pytest.mark.parametrize("name", UPLOT)
def test_the_chart_library_is_the_released_one(name):
    file = resources.files("alignment.telemetry.report").joinpath("assets", "uplot", name)
    assert hashlib.sha256(file.read_bytes()).hexdigest() == UPLOT[name]


def test_the_page_carries_the_licence_of_the_library(tmp_path):
    page = write_report(tmp_path, title="t", summary={}).read_text()
    assert "Copyright (c) 2022 Leon Sorokin" in page and "above copyright notice and this permission notice" in page


def test_an_empty_folder_gives_an_honest_page(tmp_path):
    page = write_report(tmp_path / "new", title="t", summary={}).read_text()
    assert "no metrics and no samples" in page


@pytest.mark.parametrize(("last", "tag"), [(1.0, "<details open>"), (2.0, "<details>")])
def test_constants_are_unfolded_where_there_is_no_chart(tmp_path, last, tag):
    lines = [{"step": 1, "kl/k1": 1.0, "train/kl_coeff": 0.1}, {"step": 2, "kl/k1": last}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = write_report(tmp_path, title="t", summary={}).read_text()
    assert f"{tag}<summary>{2 if last == 1.0 else 1} metrics that never change" in page


def test_damaged_files_are_left_out(tmp_path):
    (tmp_path / "ledger.json").write_text("{")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 1.0}\n{"step": 2, "a"')
    page = write_report(tmp_path, title="t", summary={}).read_text()
    assert "steps 1 to 1" in page
    assert "Data ledger" not in page


def test_training_samples_are_shown_where_nothing_was_evaluated(tmp_path):
    writers = open_writers(["none"], output_dir=tmp_path)
    for step in (1, 2):
        writers.write_samples(step, [{"prompt": f"p{step}", "response": f"r{step}", "score": 1, "source": "training"}])
    writers.close()
    page = write_report(tmp_path, title="run", summary={}).read_text()
    assert "Responses of the last training rollout by score.</p>" in page
    assert ">r2<" in page and ">r1<" not in page and "not sampled" not in page
    writers = open_writers(["none"], output_dir=tmp_path, resume_step=2)
    writers.write_samples(2, [{"prompt": "p", "response": "evaluated", "score": 1.0}])
    writers.close()
    page = write_report(tmp_path, title="run", summary={}).read_text()
    assert "Responses of the last evaluation by score.</p>" in page
    assert "evaluated" in page and ">r2<" not in page


def test_a_comparison_shows_last_values_and_the_arguments_that_differ(tmp_path):
    for name, rate, rewards in (("a", 0.1, (1.0, 3.0)), ("b", 0.2, (1.0, 2.0, 2.5))):
        writers = open_writers(["none"], output_dir=tmp_path / name)
        for step, reward in enumerate(rewards, 1):
            writers.write(step, {"train/reward": reward, **({"ptx/loss": reward} if name == "b" else {})})
        writers.close()
        (tmp_path / name / "arguments.json").write_text(json.dumps({"learning_rate": rate, "seed": 1}))
    runs = {name: read_run_files(tmp_path / name) for name in "ab"}
    page = Page(write_comparison(runs, tmp_path / "comparison.html").read_text())
    shown = " ".join(page.text.split())
    assert "Comparison of 2 runs a steps 1 to 2 b steps 1 to 3" in shown
    assert "Argument a b learning_rate 0.1 0.2" in shown and "seed" not in shown
    assert re.search(r"train/reward .*? 3 best 3 at 2 2.5 best 2.5 at 3 score", shown)
    assert re.search(r"ptx/loss .*? - 2.5 best 1 at 1 nats per token", shown)
    reward = page.data["chart-0"]
    assert reward["ends"] == [1, 3]
    assert [(line["x"], line["colour"], line["dash"]) for line in reward["lines"]] == [
        ([1, 2], 0, 0),
        ([1, 2, 3], 1, 0),
    ]


def test_only_a_report_is_replaced(tmp_path):
    for name, reason in (("folder", "is a folder"), ("mine.html", "is not a report: it is not replaced")):
        path = tmp_path / name
        path.mkdir() if reason == "is a folder" else path.write_text("<p>mine")
        with pytest.raises(UserError, match=reason):
            refuse_foreign_file(path)
    refuse_foreign_file(tmp_path / "new.html")
    refuse_foreign_file(write_report(tmp_path / "run", title="t", summary={}))


def test_a_comparison_says_that_scores_of_different_reward_models_do_not_compare(tmp_path):
    for name, reward in (("a", 3.0), ("b", 2.5)):
        writers = open_writers(["none"], output_dir=tmp_path / name)
        for step in (1, 2):
            writers.write(step, {"train/reward": reward * step, "preference/accuracy": reward * step / 10})
        writers.close()
    note, best = "different reward sources: not comparable", re.compile(r"<b>(6|0\.6)</b>")
    for models, notes, bold in ((("x", "y"), 1, ["0.6"]), (("x", "x"), 0, ["6", "0.6"])):
        for name, model in zip("ab", models, strict=True):
            arguments = {"reward_model_name_or_path": {"value": model, "origin": "file"}}
            (tmp_path / name / "arguments.json").write_text(json.dumps(arguments))
        runs = {name: read_run_files(tmp_path / name) for name in "ab"}
        page = write_comparison(runs, tmp_path / "comparison.html").read_text()
        assert (page.count(note), best.findall(page)) == (notes, bold)
