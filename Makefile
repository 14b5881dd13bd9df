# PYTHON is the interpreter that makes the environment; every other command runs inside it.
PYTHON ?= python3
RESULTS ?= results

# An active environment (venv or conda) in which the suite is installed is used as it is, as is one that VENV
# names; otherwise .venv is made. An active one without the suite, such as conda's base, is left alone.
ACTIVE = $(or $(VIRTUAL_ENV),$(CONDA_PREFIX))
HOLDS = $(shell "$(1)/bin/python" -I -c "import importlib.metadata as m; print(m.version('dora-glue'))" 2>/dev/null)
VENV ?= $(if $(and $(ACTIVE),$(call HOLDS,$(ACTIVE))),$(ACTIVE),.venv)
BIN = $(VENV)/bin
# .ready marks an environment that make has made, and keeps at the pinned requirements.
MADE = $(wildcard $(VENV)/.ready)
READY = $(if $(MADE),$(VENV)/.ready,$(if $(call HOLDS,$(VENV)),,$(VENV)/.ready))

.PHONY: help setup demo test test-slow test-slurm test-lowest check bench tables figures report missing clean clean-runs

help:  ## lists the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## makes .venv with the pinned requirements, unless the environment you are in has the suite

$(VENV)/.ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: setup  ## trains four methods on the embedded data, from pretrained and random weights; tables and figures
	$(BIN)/python scripts/demo.py

test: setup  ## runs the default tests (no network, no GPU)
	$(BIN)/python -m pytest -n 2

test-slow: setup  ## runs the tests that take minutes
	$(BIN)/python -m pytest -n 2 -m slow

test-slurm: setup  ## runs the tests on a real SLURM of one node, set up and torn down (root; else skipped)
	$(BIN)/python -m pytest -m slurm -rs

# PyTorch is the pinned one: its lowest version is not tested.
test-lowest:  ## runs the default tests with the lowest versions that pyproject.toml allows, in .lowest (needs uv)
	uv venv --quiet --clear --python $(PYTHON) .lowest
	grep '^torch==' requirements.txt > .lowest/torch.txt
	uv pip install --quiet --python .lowest/bin/python --resolution lowest-direct --override .lowest/torch.txt --editable '.[dev]'
	.lowest/bin/python -m pytest -n 2

check: setup  ## checks format, lint and types
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy

bench: setup  ## times a training step beside the bare backbone, PEFT and the Trainer (half an hour or more)
	$(BIN)/python -m dora.bench

tables: setup  ## makes the tables of finished runs under RESULTS (default: results): Markdown, LaTeX, CSV
	$(BIN)/python -m dora.tables --results "$(RESULTS)"

figures: setup  ## makes their figures: PDF, SVG, PNG, CSV
	$(BIN)/python -m dora.plots --results "$(RESULTS)"

report: setup  ## puts tables, figures and every run's configuration on one page, RESULTS/report.html
	$(BIN)/python -m dora.report --results "$(RESULTS)"

missing: setup  ## prints the commands of the runs under RESULTS that are left to do
	@$(BIN)/python -m dora.status --results "$(RESULTS)" --missing || test $$? -eq 3

clean:  ## removes caches, tables, figures and an environment that make has made; runs stay
	rm -rf $(if $(wildcard .venv/.ready),.venv) $(if $(MADE),$(VENV)) .lowest results/cache results/multirun results/tables results/figures results/report*.html .pytest_cache .mypy_cache .ruff_cache

clean-runs:  ## removes the runs and the search in results/ for good; studies in folders of their own stay
	rm -rf results/runs results/search results/wandb
