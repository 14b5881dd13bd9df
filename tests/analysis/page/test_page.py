"""The page: one file with every run's record, where text from records stays text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dora.analysis.figures.files import FIGURES
from dora.analysis.grouping import tables
from dora.analysis.page import contrast
from dora.analysis.page.page import FOLDER, SCRIPTS, STYLE, TEMPLATE, page
from dora.records import gaps
from dora.records.finished import read_runs
from record_files import large_study, write_run
from runs import command

# Ends a script element, begins an element and an entity, ends an attribute.
BREAKING = "</script><b>&\"'"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for seed in (1, 2):
        write_run(tmp_path, "full", seed, 0.9, budget="none")
        for method, score in (("lora", 0.85), ("dora", 0.8)):
            write_run(tmp_path, method, seed, score + seed / 100, embedded=BREAKING)
    write_run(tmp_path, "lora", 1, 0.6, task="rte", words=["task=rte", BREAKING])
    return tmp_path


def whole(results: Path) -> str:
    return page(tables(read_runs(results)), gaps.scan(results), "a test")


class Reader(HTMLParser):
    """Collects a page's elements with their attributes, and the text of each script element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.comments: list[str] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag == "script"
        if self._inside:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_comment(self, data: str) -> None:
        self.comments.append(data)

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        """Returns the attributes of every element with one of these tags."""
        return [attributes for tag, attributes in self.elements if tag in tags]

    @property
    def study(self) -> dict[str, Any]:
        """Returns the data that the page's scripts read."""
        return dict(json.loads(self.scripts[0]))

    @property
    def shape(self) -> set[tuple[str, ...]]:
        """Returns the elements, each with the names of its attributes, and the comments."""
        found = {(tag, *attributes) for tag, attributes in self.elements}
        return found | {("comment", text) for text in self.comments}


def test_nothing_is_fetched_and_every_run_is_inside(results: Path) -> None:
    reader = Reader(whole(results))
    # The page is sent by mail and opened from a file: no address outside it.
    addresses = [
        v for _, attrs in reader.elements for k, v in attrs.items() if k in ("src", "href")
    ]
    assert all(str(address).startswith(("data:", "#")) for address in addresses)
    style = (FOLDER / STYLE).read_text()
    assert not re.search(r"@import|url\(", style)
    # And should one be forgotten, a browser would not follow it.
    (policy,) = [meta["content"] for meta in reader.of("meta") if "http-equiv" in meta]
    assert str(policy).startswith("default-src 'none';")
    assert len(reader.study["runs"]) == 7


def test_links_within_the_page_lead_somewhere(results: Path) -> None:
    reader = Reader(whole(results))
    ids = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {str(a["href"]).removeprefix("#") for a in reader.of("a")}
    named = " ".join(str(attrs.get("aria-labelledby", "")) for _, attrs in reader.elements).split()
    assert links == {"table-0", "explore", "runs"}
    assert links | set(named) <= set(ids)


def test_tables_controls_and_landmarks_have_names(results: Path) -> None:
    reader = Reader(whole(results))
    assert len(reader.of("table")) == len(reader.of("caption")) > 2
    assert all(head.get("scope") in ("col", "row") for head in reader.of("th"))
    labelled = {label["for"] for label in reader.of("label")}
    assert {box["id"] for box in reader.of("input")} == labelled
    assert [len(reader.of(tag)) for tag in ("h1", "header", "main", "nav")] == [1, 1, 1, 1]
    assert all("aria-label" in nav for nav in reader.of("nav"))
    assert all("aria-labelledby" in named for named in reader.of("section", "dialog"))


def test_the_page_is_put_together_of_all_files_in_its_folder() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {TEMPLATE, STYLE, *SCRIPTS}
    for path in FOLDER.iterdir():
        lines = path.read_text().splitlines()
        assert len(lines) < 350, path
        assert path.suffix != ".js" or not re.search("</script|innerHTML", path.read_text())


def test_methods_have_colours_for_the_backgrounds_that_the_style_has(results: Path) -> None:
    style = (FOLDER / STYLE).read_text()
    assert re.findall("--page: (#[0-9a-f]{6})", style) == [contrast.LIGHT, contrast.DARK]
    looks = Reader(whole(results)).study["looks"]
    assert looks.keys() == {"full", "lora", "dora"}
    for look in looks.values():
        assert contrast.contrast(look["light"], contrast.LIGHT) >= 3
        assert contrast.contrast(look["dark"], contrast.DARK) >= 5


def test_what_a_record_holds_stays_text(results: Path) -> None:
    text = whole(results)
    assert BREAKING not in text
    assert "&lt;/script&gt;&lt;b&gt;&amp;" in text
    # The page's own two: the records and the script.
    assert text.count("</script>") == 2


@pytest.mark.slow
def test_a_thousand_records_become_tables_figures_and_a_page(tmp_path: Path) -> None:
    number = large_study(tmp_path)
    assert number >= 1000
    for what in ("tables", "plots", "report"):
        done = command(f"dora.{what}", "--results", str(tmp_path))
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "figures").glob("*.png"))) == len(FIGURES)
    text = (tmp_path / "report.html").read_text()
    assert len(text) < 3_000_000  # it is sent by mail
    assert len(Reader(text).study["runs"]) == number


@pytest.mark.parametrize(
    "text", [BREAKING, "\u202eevil", "<!--", "$(touch x)", "x\n$(touch x)", "' onclick='x"]
)
def test_every_text_of_a_record_stays_text(text: str, results: Path) -> None:
    # A page of harmless records has the same elements and attributes as a spoiled one.
    plain = Reader(whole(results))
    for path in results.rglob("run.json"):
        run = json.loads(path.read_text())
        run |= dict.fromkeys(("embedded", "note", "device", "command", "host"), text)
        run |= {
            "words": ["task=rte", text],
            "versions": {"torch": text},
            "git": {"commit": text, "dirty": False},
        }
        path.write_text(json.dumps(run))
    page = whole(results)
    spoiled = Reader(page)
    assert spoiled.shape == plain.shape
    # HTML's own escapes leave this mark of direction, which shows a command that is another one.
    assert "\u202e" not in page
    # Nor do the script's texts hold it, which JSON would spell out and the script show.
    found = spoiled.study
    assert "\\u202e" not in json.dumps(found).replace("\\\\", "")
    for run in found["runs"]:
        assert run["typed"].startswith("# ")
        assert run["typed"].isprintable()
