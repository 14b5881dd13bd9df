"""A single flipped bit in any file that a run leaves is noticed, or changes nothing."""

from __future__ import annotations

from pathlib import Path

from flip_bits import EXCEPTIONS, HARMLESS, NOTICED, SILENT, study

from runs import only_run

# A journal of a run that broke off may have lines after its newest checkpoint. Resuming cuts them
# away, so a flip in them is harmless.
CUT_AWAY = {"cut: metrics.jsonl", "cut: ranks.jsonl"}


def test_no_flipped_bit_is_silent_in_any_file_of_a_run(tmp_path: Path) -> None:
    found = study(5, 1, tmp_path, print)
    assert {kind: count[SILENT] for kind, count in found.items() if count[SILENT]} == {}
    assert all(sum(count.values()) == 5 for count in found.values())
    # Nothing else is harmless: every file is covered by a checksum to its last bit.
    assert {kind for kind, count in found.items() if count[HARMLESS]} <= CUT_AWAY
    assert all(count[NOTICED] for kind, count in found.items() if kind not in CUT_AWAY)
    tried = {kind.partition(": ")[2] for kind in found}
    for name in ("done", "full", "cut"):
        folder = only_run(tmp_path / name)
        # Every file that a run leaves was tried, or is named as an exception.
        files = [f for f in folder.rglob("*") if f.is_file() and f.stat().st_size]
        left = {f.relative_to(folder).as_posix() for f in files}
        checkpoints = {file for file in left if file.startswith("checkpoint/")}
        assert left - checkpoints <= tried | EXCEPTIONS.keys()
        assert len(checkpoints) == (2 if name == "cut" else 0)
