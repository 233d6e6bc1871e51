# make quickstart   from nothing to a trained, evaluated model (installs into .venv first)
# make test         lint beside all fast tests        make test-slow   the slow ones
# make matrix       every modality x objective on real data that has no result yet, then RESULTS.md (hours)
# make docs         the site of docs/, with every command and option, in site/
# make docs-check   the numbers of README, RESULTS.md and docs/ against stored results and new exports
# make bench        training steps against the fastest peers, in turns, then docs/benchmarks/speed.md (20 minutes)
# make pictures     the tutorials (notebooks) and the quickstart's card run anew, with the pictures in them and in README
#                   (an hour; DATA and ENCODERS say where the shared data and `benchmarks.stock_encoders` are)
# make fuzz         12,000 damaged files of every format that is read: no traceback, no hang, no memory (20 minutes)
# make lint         ruff and mypy                     make clean       remove caches and build products
#
# PYTHON=python3.12 make test   uses another interpreter for .venv.
# make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu   makes .venv with torch, torchaudio and torchvision
#   from that index: without CUDA's packages, 5.3 of 6.7 GB. All three, because one of another build does not import.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
DATA ?= $(or $(MMSSL_SHARED_DATA),../shared/data)
ENCODERS ?= ../encoders
TORCH := 'torch>=2.11,<2.16' 'torchaudio>=2.11.1,<2.12' torchvision
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs
BENCH := $(VENV)/.installed-bench

.PHONY: quickstart test fast test-slow docs docs-check pictures matrix bench fuzz lint clean

quickstart: $(CORE)
	$(BIN)/mmssl pretrain quickstart

# Beside each other, once both have what they need: what fails in either fails this.
test: $(DEV)
	@$(MAKE) --no-print-directory --jobs=2 lint fast

# Compiled files are written whatever the shell says: without them each process compiles all of mmssl and its tests anew.
fast: $(DEV)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -m "not slow and not docs" -n auto --dist worksteal

test-slow: $(DEV)
	$(BIN)/python -m pytest -m slow

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs-check: $(DEV)
	$(BIN)/python -m pytest -m docs

matrix: $(DEV)
	$(BIN)/python -m benchmarks.matrix

bench: $(BENCH)
	$(BIN)/python -m benchmarks.steps

pictures: $(DEV)
	$(BIN)/python -m benchmarks.stock_encoders $(ENCODERS)
	$(BIN)/python -m benchmarks.cards --train quickstart
	$(BIN)/python -m benchmarks.notebooks --data $(DATA) --encoders $(ENCODERS)

fuzz: $(DEV)
	PYTHONPATH=tests $(BIN)/python -m fuzz

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is `$(PYTHON) --version 2>&1`, mmssl needs Python 3.11 or newer: make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX),)
	$(BIN)/python -m pip install --disable-pip-version-check $(TORCH) --index-url $(TORCH_INDEX)
endif

# The stamps are newer than pyproject.toml once its dependencies are installed: a second call costs nothing.
# $(BIN)/python is order-only (after the bar): its date is the interpreter's and says nothing about the packages.
$(CORE): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[tensorboard,plots]'
	@touch $@

$(DEV): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $(CORE) $@

$(DOCS): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[docs]'
	@touch $(CORE) $@

$(BENCH): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[bench]'
	@touch $(CORE) $@

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
