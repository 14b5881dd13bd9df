"""Names a run by the settings and the data that its result depends on.

Their hash names a run's directory, so that a run that is done is found again, and one that would
come to other numbers lies elsewhere.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from dora.configuration.neutral import NEUTRAL
from dora.records.schema import Run

# Raised whenever the same configuration trains to other bits than before, so that old and new runs
# are two directories and tables do not mix them. tests/test_arithmetic.py tells when;
# results/README.md says which number means what.
ARITHMETIC = 6
# The numbers of architectures (`model_type` in config.json) that have changed alone since: runs on
# others keep their directories. Empty again when ARITHMETIC is raised above them.
OF_ARCHITECTURE = {"deberta-v2": 7}
# The keys that are no part of the hash: seed and results have places of their own in the path.
NOT_IDENTITY = (*NEUTRAL, "seed", "results")

# Settings that came after the first runs, with the values that mean what those runs did: those of
# every run under "" by dotted keys ("clip", "fed.alpha"), a method's own under its name. At these
# values they are no part of a run's identity, so that its directory keeps its name.
LATER: dict[str, dict[str, Any]] = {
    "": {},
    "lora": {"scaling": "standard", "lr_ratio": 1.0, "init": "kaiming", "deal": "spread"},
    "dora": {"importance": "share"},
    "lora_fair": {"server_step": "fixed"},
}


def arithmetic(model_type: str) -> int:
    """Returns the number of the arithmetic by which a backbone of this architecture is trained."""
    return OF_ARCHITECTURE.get(model_type, ARITHMETIC)


def identity(
    config: dict[str, Any], fingerprints: dict[str, str | None], number: int = ARITHMETIC
) -> str:
    """Returns 8 hex digits that name a configuration: a hash of what determines a run's result.

    The seed is left out, the `number` of the arithmetic included. `config` is resolved; its paths
    are left out in favour of the `fingerprints` of what lies there (data, model, init_from), so that
    the same run typed two ways, or from a folder that was moved, is the same directory.
    """
    kept = copy.deepcopy({k: v for k, v in config.items() if k not in NOT_IDENTITY})
    for part, key, before in _later(kept):
        if (key, before) in part.items():
            del part[key]
    about = {"config": kept, "fingerprints": fingerprints, "arithmetic": number}
    # 32 bits: the chance that two of a study's 100 configurations collide is 1 in a million.
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def key_of(run: Run) -> str | None:
    """Returns the `identity` of a recorded run; None where the record does not tell it.

    Records of arithmetic 1 to 3 are read with today's keys, not those that were hashed.
    """
    marks, number = run.get("fingerprints"), run.get("arithmetic", 0)
    if not marks or number < 4:
        return None
    return identity(run["config"], marks, number)


def configuration(run: Run) -> dict[str, Any]:
    """Returns a recorded run's configuration, with the settings added since (LATER) at its values."""
    whole = copy.deepcopy(run["config"])
    for part, key, before in _later(whole):
        # In the order of the record, which is the YAML's; what it lacks comes last.
        part.setdefault(key, before)
    return whole


def _later(config: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Yields each setting of LATER: the part of `config` it is for, its name, its value of before."""
    method = config.get("method") or {}
    own = LATER.get(str(method.get("name")), {})
    for key, before in (LATER[""] | {f"method.{k}": v for k, v in own.items()}).items():
        group, _, name = key.rpartition(".")
        # Only a federated run has `fed`.
        yield config.get(group, {}) if group else config, name, before
