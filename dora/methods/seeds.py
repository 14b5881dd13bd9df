"""Seeds that are functions of what they are for, so that no generator's state needs saving."""

from __future__ import annotations

import hashlib


def seed_of(*parts: object) -> int:
    """Returns a seed of 63 bits from the texts of `parts`."""
    # Hashed: neighbouring numbers, had they been added up, would coincide.
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # manual_seed takes no more than 63 bits
