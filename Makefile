# Two commands on a fresh machine with Python 3.10+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# TORCH=cpu: PyTorch without the CUDA libraries (about 1 GB in place of 6), from PyTorch's own package index
TORCH  ?=
CPU    := $(shell sed -n 's/^torch.*==.*/&+cpu/p' constraints.txt)
PIP    := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: help setup demo smoke test lint bench docs clean

help:
	@echo "make demo    set up, then train and evaluate on the built-in data, and make a page of the results"
	@echo "make test    set up, then run all checks and tests"
	@echo "make smoke   every method, made small, with two seeds on the built-in data: a sweep"
	@echo "make bench   measure sweeps, and training on several processes"
	@echo "make lint    style and types only"
	@echo "make docs    build the documentation into site/"
	@echo "make setup   only set up $(VENV); the command is then $(BIN)/ader (TORCH=cpu: without the CUDA libraries)"
	@echo "make clean   delete $(VENV), site and tool caches; data and results stay"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 10) and sys.exit("ader needs Python 3.10 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip, venv' || { echo "this Python has no venv module: install it (Debian: apt install python3-venv)"; exit 1; }
	@echo "setting up $(VENV): downloads and installs about $(if $(filter cpu,$(TORCH)),1,6) GB of packages, which takes a few minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(if $(filter cpu,$(TORCH)),$(PIP) --extra-index-url https://download.pytorch.org/whl/cpu $(CPU))
	@$(PIP) -e '.[dev]'
	@touch $(READY)
	@echo "ready: $(BIN)/ader --help"

demo: $(READY)
	@$(BIN)/ader experiment=demo
	@echo
	@$(BIN)/ader experiment=demo_rd
	@echo
	@$(BIN)/ader report where=dataset=demo

# One thread per test process: with more, processes and threads fight over the cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

# SMOKE: more words for the sweep, such as SMOKE='launcher.slots=8' or SMOKE='retry=failed'
smoke: $(READY)
	$(BIN)/ader -m experiment=smoke 'method=glob(*)' seed=1,2 sweep=smoke launcher.slots=2 $(SMOKE)

bench: $(READY)
	$(BIN)/python -m benchmarks.sweeps
	$(BIN)/python -m benchmarks.parallel
	$(BIN)/python -m benchmarks.processes
	$(BIN)/python -m benchmarks.banks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "open site/index.html"

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis
