"""Text from others is shown with escapes and cannot act on the terminal."""

from __future__ import annotations

import pytest

from dora.plain import counted, cut, dotted, is_whole, number_range, printable, with_commas


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tiny_roberta ± é 中", "tiny_roberta ± é 中"),
        # An escape sequence that would clear the terminal.
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\nb\rc\td", r"a\nb\rc\td"),
        # Marks of direction, which reorder the rest of a line.
        ("a\u202eb\u2066", r"a\u202eb\u2066"),
        ("\u2028\u200b\x9b", r"\u2028\u200b\x9b"),
        # A byte of a file name that is not UTF-8.
        ("\udcff", r"\udcff"),
        (7, "7"),
    ],
)
def test_what_does_not_print_is_spelled_out(text: object, shown: str) -> None:
    assert printable(text) == shown
    assert shown.isprintable()


def test_a_long_text_is_cut() -> None:
    assert cut("x" * 101) == "x" * 100 + "…"
    assert cut("x" * 100) == "x" * 100


@pytest.mark.parametrize(("number", "said"), [(0, "0 runs"), (1, "1 run"), (1040, "1,040 runs")])
def test_one_thing_is_no_plural(number: int, said: str) -> None:
    assert counted(number, "run") == said


def test_nested_settings_have_dotted_keys_and_empty_groups_none() -> None:
    nested = {
        "lr": None,
        "method": {"alpha": 16, "rank": {"q": 8}},
        "fed": {},
        "target": ["q", "v"],
    }
    flat = {"lr": None, "method.alpha": 16, "method.rank.q": 8, "target": ["q", "v"]}
    assert dotted(nested) == flat
    assert [with_commas(v) for v in flat.values()] == [None, 16, 8, "q,v"]


def test_a_range_of_equal_numbers_is_one_number() -> None:
    assert number_range([1200, 1200]) == "1,200"
    assert number_range([2000, 8, 1200]) == "8 to 2,000"


def test_a_whole_number_is_an_int_between_its_bounds_and_no_yes_or_no() -> None:
    assert all(is_whole(value, 1, 3) for value in (1, 3))
    assert not any(is_whole(value, 1, 3) for value in (0, 4, 2.0, "2", True, None))
    assert is_whole(1 << 80, 0)
