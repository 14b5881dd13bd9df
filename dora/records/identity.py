"""Names a run by the settings and the data that its result depends on.

Their hash names a run's directory, so that a run that is done is found again, and one that would
come to other numbers lies elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from dora.configuration.neutral import NEUTRAL
from dora.records.schema import Run

# Raised whenever the same configuration trains to other bits than before, so that old and new runs
# are two directories and tables do not mix them. tests/test_arithmetic.py tells when;
# results/README.md says which number means what.
ARITHMETIC = 6
# The keys that are no part of the hash: seed and results have places of their own in the path.
NOT_IDENTITY = (*NEUTRAL, "seed", "results")

# A method's settings that came after its first runs, with the values that those runs had. At these
# values they are no part of a run's identity, so that its directory keeps its name.
LATER: dict[str, dict[str, Any]] = {
    "lora": {"scaling": "standard", "lr_ratio": 1.0, "init": "kaiming", "deal": "spread"},
    "dora": {"importance": "share"},
    "lora_fair": {"server_step": "fixed"},
}


def identity(config: dict[str, Any], fingerprints: dict[str, str | None]) -> str:
    """Returns 8 hex digits that name a configuration: a hash of what determines a run's result.

    The seed is left out, ARITHMETIC included. `config` is resolved; its paths are left out in
    favour of the `fingerprints` of what lies there (data, model, init_from), so that the same run
    typed two ways, or from a folder that was moved, is the same directory.
    """
    kept = {k: v for k, v in config.items() if k not in NOT_IDENTITY}
    if method := kept.get("method"):
        before = LATER.get(method["name"], {}).items()
        kept["method"] = {k: v for k, v in method.items() if (k, v) not in before}
    about = {"config": kept, "fingerprints": fingerprints, "arithmetic": ARITHMETIC}
    # 32 bits: the chance that two of a study's 100 configurations collide is 1 in a million.
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def method_settings(run: Run) -> dict[str, Any]:
    """Returns the settings of a recorded run's method, those added since (LATER) at its values."""
    method = run["config"]["method"]
    # In the order of the record, which is the YAML's; what it lacks comes last.
    return method | {k: v for k, v in LATER.get(method["name"], {}).items() if k not in method}
