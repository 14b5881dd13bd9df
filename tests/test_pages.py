"""Links of README and docs lead to files and headings, and what the pages quote is the suite's own."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import dora
from dora.methods.released import RELEASED
from dora.package import CONF
from dora.records.study import STATES

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
named = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())


def anchors(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@named
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", page.read_text())
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert {p.name for p in (ROOT / "docs").glob("*.md")} - {"README.md"} == set(
        re.findall(r"\]\(([\w-]+\.md)\)", index)
    )


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_page_on_running_lists_every_choice() -> None:
    text = (ROOT / "docs" / "running.md").read_text()
    for group in ("task", "method", "model", "experiment"):
        (row,) = re.findall(rf"^\| `{group}` \| (.*) \|$", text, re.MULTILINE)
        files = (f.relative_to(CONF / group).parts[0] for f in (CONF / group).rglob("*.yaml"))
        names = {name.removesuffix(".yaml") for name in files if not name.startswith("_")}
        if group == "method":
            names = set(RELEASED)
        assert [n for n in sorted(names) if not re.search(rf"\b{n}\b", row)] == []


def test_the_page_of_methods_has_a_row_for_each_and_no_other() -> None:
    page = (ROOT / "docs" / "methods.md").read_text().partition("## All methods")[2]
    rows = re.findall(r"^\| (\w+) \| (?!paper)", page, re.MULTILINE)
    assert sorted(rows) == sorted(RELEASED)


def test_the_readme_names_methods_that_are_there() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    # Not all of them must be named: the page is short.
    assert {"lora", "dora", "full"} < set(rows) <= {f.stem for f in CONF.glob("method/*.yaml")}


@named
def test_a_model_that_a_page_loads_has_the_precision_it_was_scored_in(page: Path) -> None:
    # Transformers would take the file's, which may have 16 bits. A language model was never scored.
    calls = re.findall(
        r"\bAutoModelFor(?!CausalLM)\w+\.from_pretrained\(([^()]*)\)", page.read_text()
    )
    assert all("dtype=torch.float32" in call for call in calls)


@named
def test_names_of_the_package_on_a_page_are_there(page: Path) -> None:
    python = "".join(re.findall(r"^```python\n(.*?)^```", page.read_text(), re.S | re.M))
    used = [
        node.attr
        for node in ast.walk(ast.parse(python))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "dora"
    ]
    assert [name for name in used if not hasattr(dora, name)] == []


@named
def test_python_on_a_page_compiles_and_imports_names_that_are_there(page: Path) -> None:
    for code in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("dora"):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name) or importlib.import_module(
                        f"{node.module}.{alias.name}"
                    )


def test_the_readmes_python_calls_what_the_tour_calls() -> None:
    # A test of its own runs the tour.
    def calls(name: str) -> set[str]:
        text = "".join(re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.S | re.M))
        return set(re.findall(r"\b(?:dora|adapter)\.\w+(?=\()", text))

    assert {"dora.attach", "adapter.step"} < calls("README.md") <= calls("docs/python.md")


def said() -> str:
    """Returns the package's source, with texts over several lines in one."""
    source = "\n".join(file.read_text() for file in (ROOT / "dora").rglob("*.py"))
    return re.sub(r'"\s*\n\s*f?"', "", source)


def test_messages_quoted_as_symptoms_are_the_suites_own() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text()
    symptoms = re.findall(r"^\*\*(.*?)\*\*", text, re.DOTALL | re.MULTILINE)
    quoted = [q for s in symptoms for q in re.findall(r"`([^`]+)`", " ".join(s.split()))]
    # Of other programs, and words that are typed.
    others = (
        "No module",
        "No space",
        "huggingface/tokenizers",
        "size mismatch",
        "import",
        "method=",
    )
    own = [q for q in quoted if " " in q and not q.startswith(others)]
    assert len(own) > 15
    package = said()
    for message in own:
        # What stands between the values of a message.
        for piece in re.split(r"…|\d+(?:/\d+)?|results/runs|[A-Z_]+=\w+|SST-2", message):
            assert len(piece.strip()) < 8 or piece.strip(" .,:") in package, (message, piece)


def test_the_page_on_running_explains_every_state_of_a_run() -> None:
    text = (ROOT / "docs" / "running.md").read_text()
    rows = text.partition("| state | meaning |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE) == list(STATES)


def test_the_figures_are_drawn_by_the_commands_on_the_page_of_figures() -> None:
    # Their numbers are not compared: drawing takes seconds, and letters are matplotlib's.
    tables = (ROOT / "docs" / "tables.md").read_text()
    for name, study in (("scores", "study_tiny"), ("ranks", "study_base")):
        figure = (ROOT / "docs" / "figures" / f"{name}.svg").read_text()
        assert f"<dc:source>python -m dora.plots of {study}</dc:source>" in figure
        assert f"dora.plots --width page --results results/{study} " in tables
        assert 'width="453.6pt"' in figure  # 6.3 inches
