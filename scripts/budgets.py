"""Tabulates a budget's components and parameters, at the start and at the end, for each method.

    python scripts/budgets.py r8 331776 --shape minilm
    python scripts/budgets.py r8 0.3M --shape roberta_base

Shows each method's plan for all six linears of every layer. It needs the shapes alone: no model is
loaded. Where training decides the end, the table shows its range. Methods without a budget are left
out.
"""

from __future__ import annotations

import argparse

from dora.adapters.budget import Budget
from dora.analysis.tables.layout import pipe_table
from dora.backbones.architectures import KINDS
from dora.backbones.backbone import find_linears
from dora.configuration.method_choice import method_names, packaged
from dora.methods.base import RunInfo
from dora.plain import number_range

# model_type, hidden size, feed-forward size, layers: as in the models' config.json
SHAPES = {
    "minilm": ("bert", 384, 1536, 6),
    "roberta_base": ("roberta", 768, 3072, 12),
    "roberta_large": ("roberta", 1024, 4096, 24),
    "deberta_v3_base": ("deberta-v2", 768, 3072, 12),
    "deberta_v3_large": ("deberta-v2", 1024, 4096, 24),
}


def main() -> None:
    """Prints one Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("budget", nargs="+", help="such as r8, 0.3M or 331776")
    parser.add_argument(
        "--shape",
        choices=SHAPES,
        default="roberta_base",
        help="of the backbone (default: %(default)s)",
    )
    given = parser.parse_args()
    kind, hidden, inner, layers = SHAPES[given.shape]
    config = {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
    }
    # The keys that say which matrices there are, and their shapes.
    matrices = find_linears(config, KINDS)
    lines = [
        ["budget", "method"]
        + [f"{when} {what}" for when in ("start", "end") for what in ("components", "parameters")]
    ]
    for text in given.budget:
        for name in method_names():
            method = packaged(name)
            plan = method.kind.plan(
                method.settings, Budget.parse(text), matrices, RunInfo(0, seed=0)
            )
            if plan is None:  # it has no budget
                continue
            components, params = plan.end_range()
            start = [f"{sum(plan.start):,}", f"{plan.start_params:,}"]
            lines.append([text, name, *start, number_range(components), number_range(params)])
    print(pipe_table(lines))


if __name__ == "__main__":
    main()
