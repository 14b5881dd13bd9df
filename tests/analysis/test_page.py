"""The page: one file with every run's configuration, where text from records stays text."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

import dora.analysis.page
from dora.analysis.grouping import read_runs, tables
from dora.analysis.page import page
from dora.records import study
from record_files import large_study, write_run
from runs import command

# Ends a script element, begins an element and an entity, ends an attribute.
BREAKING = "</script><b>&\"'"
# Clicks, types and opens as a reader would, and writes what it saw into the page.
PROBE = """<script>addEventListener("load", () => {
  const first = document.querySelector("#table-0-0");
  const column = n => [...first.tBodies[0].rows].map(r => r.cells[n].textContent);
  const head = first.tHead.rows[0].cells[3].firstElementChild;
  head.click(); const up = column(3); head.click(); const down = column(3);
  const filter = document.querySelector("input[type=search]");
  filter.value = "SST2 dora"; filter.dispatchEvent(new Event("input"));
  const count = document.getElementById("all-runs-count").textContent;
  const shown = [...document.querySelectorAll("#all-runs tbody tr")].find(row => !row.hidden);
  shown.querySelector("button").click();
  const out = document.createElement("pre"); out.id = "seen";
  const record = JSON.parse(document.getElementById("run-record").textContent);
  out.textContent = JSON.stringify([up, down, count, document.querySelector("dialog").open,
    document.getElementById("run-name").textContent, record.config.lr]);
  document.body.append(out); });</script>"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for seed in (1, 2):
        write_run(tmp_path, "full", seed, 0.9, budget="none")
        for method, score in (("lora", 0.85), ("dora", 0.8)):
            write_run(tmp_path, method, seed, score + seed / 100, embedded=BREAKING)
    write_run(tmp_path, "lora", 1, 0.6, task="rte", words=["task=rte", BREAKING])
    return tmp_path


def whole(results: Path) -> str:
    return page(tables(read_runs(results)), study.scan(results), results / "figures")


class Reader(HTMLParser):
    """Collects the addresses that a browser would fetch, and the text of the records' element."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.records = ""
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.fetched += [v for k, v in attrs if k in ("src", "href") and v]
        self._inside = given.get("id") == "records"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        self.records += data if self._inside else ""


class Shape(HTMLParser):
    """Collects the elements of a page, each with the names of its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[str, ...]] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add((tag, *(name for name, _ in attrs)))

    def handle_comment(self, data: str) -> None:
        self.found.add(("comment", data))


def test_nothing_is_fetched_and_every_run_is_inside(results: Path) -> None:
    reader = Reader()
    reader.feed(whole(results))
    # The page is sent by mail and opened from a file: no address outside it.
    assert all(link.startswith(("data:", "#")) for link in reader.fetched)
    images = [link for link in reader.fetched if link.startswith("data:image/png;base64,")]
    assert images
    assert base64.b64decode(images[0].partition(",")[2]).startswith(b"\x89PNG")
    records = json.loads(reader.records)
    assert len(records) == 7
    assert records["dir/rte/minilm/lora/r8/abcd1234/s1"]["words"] == ["task=rte", BREAKING]


def test_what_a_record_holds_stays_text(results: Path) -> None:
    text = whole(results)
    assert BREAKING not in text
    assert "&lt;/script&gt;&lt;b&gt;&amp;" in text
    # The page's own two: the records and the script.
    assert text.count("</script>") == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium on this machine")
def test_in_a_browser_tables_sort_runs_filter_and_configurations_open(
    results: Path, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(whole(results).replace("</body>", PROBE + "</body>"))
    done = subprocess.run(
        [
            "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    # Chromium writes every error of a script to its console.
    assert "CONSOLE" not in done.stderr
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout)
    assert found
    up, down, count, opened, name, lr = json.loads(found[1])
    assert up == ["81.5 ± 0.7", "86.5 ± 0.7", "90.0 ± 0.0"]
    assert down == up[::-1]
    assert (count, opened, name, lr) == (
        "2 of 7",
        True,
        "dir/sst2/minilm/dora/r8/abcd1234/s1",
        0.001,
    )


@pytest.mark.slow
def test_a_thousand_records_become_tables_figures_and_a_page(tmp_path: Path) -> None:
    assert large_study(tmp_path) >= 1000
    for what in ("tables", "plots", "report"):
        done = command(f"dora.{what}", "--results", str(tmp_path))
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "figures").glob("*.png"))) == 5
    assert (tmp_path / "report.html").read_text().count('<button data-run="') >= 1000


@pytest.mark.parametrize(
    "text", [BREAKING, "\u202eevil", "<!--", "$(touch x)", "x\n$(touch x)", "' onclick='x"]
)
def test_every_text_of_a_record_stays_text(
    text: str, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dora.analysis.page, "drawn", lambda *_: [])  # drawing takes a second
    # A page of harmless records has the same elements and attributes as a spoiled one.
    plain = Shape()
    plain.feed(whole(results))
    for path in results.rglob("run.json"):
        run = json.loads(path.read_text())
        run |= dict.fromkeys(("embedded", "note", "device", "command", "host"), text)
        run |= {
            "words": ["task=rte", text],
            "versions": {"torch": text},
            "git": {"commit": text, "dirty": False},
        }
        path.write_text(json.dumps(run))
    page, spoiled, reader = whole(results), Shape(), Reader()
    spoiled.feed(page)
    reader.feed(page)
    assert spoiled.found == plain.found
    # HTML's own escapes leave this mark of direction, which shows a command that is another one.
    assert "\u202e" not in page
    for record in json.loads(reader.records).values():
        assert record["typed"].startswith("# ")
        assert record["typed"].isprintable()
