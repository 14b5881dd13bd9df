# PYTHON picks the interpreter that makes the environment; everything else runs inside it.
PYTHON ?= python3
VENV ?= .venv
RESULTS ?= results
BIN = $(VENV)/bin

.PHONY: help setup demo test test-slow test-slurm check bench tables figures report missing clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready  ## a virtual environment with the pinned requirements

$(VENV)/.ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: setup  ## all four methods on the embedded data, with pretrained and with random weights, and their tables
	$(BIN)/python scripts/demo.py

test: setup  ## the default tests (no network, no GPU)
	$(BIN)/python -m pytest -n 2

test-slow: setup  ## the tests that take minutes
	$(BIN)/python -m pytest -n 2 -m slow

test-slurm: setup  ## the tests on a real SLURM of one node, set up and torn down (root; skipped where it cannot be had)
	$(BIN)/python -m pytest -m slurm -rs

check: setup  ## format, lint, types
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

bench: setup  ## what a training step costs here, beside the bare backbone, PEFT and the Trainer (25 minutes on two cores)
	$(BIN)/python -m dora.bench

tables: setup  ## tables of all finished runs under RESULTS (results): Markdown, LaTeX, CSV
	$(BIN)/python -m dora.tables --results $(RESULTS)

figures: setup  ## the figures of the same runs: PDF, PNG, CSV
	$(BIN)/python -m dora.plots --results $(RESULTS)

report: setup  ## tables, figures and every run's configuration on one page, RESULTS/report.html
	$(BIN)/python -m dora.report --results $(RESULTS)

missing: setup  ## the commands of what is left to do of the runs under results/runs
	@$(BIN)/python -m dora.status --results $(RESULTS) --missing || test $$? -eq 3

clean:  ## removes runs, caches and the environment; committed results stay
	rm -rf $(VENV) results/runs results/cache results/multirun results/wandb results/tables results/figures results/report.html .pytest_cache .mypy_cache .ruff_cache
