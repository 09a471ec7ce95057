# Everything runs from .venv, which is made here with nothing but Python 3.11 or newer.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
# Processes of pytest, twice the cores in CI: tests wait for processes of their own.
JOBS ?= 4
SECONDS ?= 60
PYTEST := python -m pytest -n $(JOBS) --dist worksteal
# Tests of what calls dask, zarr, xarray, pandas, pyarrow, scikit-learn, click and matplotlib; the others are arithmetic.
MEETING_OTHERS := $(wildcard $(patsubst %,tests/test_%.py,data_dask data_dataframe data_parquet data_xarray \
    data_zarr data_zarr_writer cli cli_commands sklearn_* sources engine profiles missing_chunks startup model_files plot kmeans \
    hostile_data hostile_models security))
# Figures are taken with the BLAS that a user gets.
AS_USER := env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check
# With uv in a tenth of the time; by pip where uv cannot be had, or finds no index of its own. Bytecode is compiled
# once, here: where PYTHONDONTWRITEBYTECODE is set each of a thousand processes would compile all of it again.
INSTALL = install() { $(PIP) 'uv>=0.8' && $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable "$$1"; }; \
    { install "$(1)" 2>/dev/null || $(PIP) --editable "$(1)"; } && $(BIN)/python -m compileall -q dem

.PHONY: help demo test test-all test-lowest test-thorough test-peers check format bench soak reliability fuzz docs clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: $(VENV)/.demo ## fit real data larger than the memory allowed, in under a minute
	$(AS_USER) $(BIN)/dem demo

test: $(VENV)/.dev ## run the tests, without the slow ones (ARGS="-k name" is passed on to pytest)
	$(BIN)/$(PYTEST) -m "not slow and not peers and not thorough" $(ARGS)

test-all: $(VENV)/.dev ## run the tests as CI does, with the slow ones
	$(BIN)/$(PYTEST) -m "not peers and not thorough" $(ARGS)

test-thorough: $(VENV)/.dev ## run every law on every model, also on those whose arithmetic is alike
	$(BIN)/$(PYTEST) -m thorough $(ARGS)

test-peers: $(VENV)/.peers ## compare numbers with other packages, into the docs (R's too: apt-get install r-cran-mclust r-cran-flexmix)
	$(BIN)/python -m pytest -m peers tests/test_peers.py $(ARGS)
	$(BIN)/python tests/peers.py

test-lowest: $(LOWEST)/.test ## run the tests that meet other packages with the lowest versions that pyproject.toml admits
	$(LOWEST)/bin/$(PYTEST) -m "not slow and not peers" $(MEETING_OTHERS) $(ARGS)

check: $(VENV)/.dev ## lint, format, types, import layers, secrets, known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --baseline .secrets.baseline
	$(BIN)/python tests/audit.py

format: $(VENV)/.dev ## repair what ruff can repair
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## all benchmarks, into docs/performance.md and algorithms.md: an hour (ARGS=--quick: two minutes)
	$(AS_USER) $(BIN)/python benchmarks $(ARGS)

soak: $(VENV)/.dev ## fits under random kills and damage for half an hour, into docs/reliability.md (ARGS="--seconds 120")
	$(AS_USER) $(BIN)/python benchmarks/soak.py $(ARGS)
	$(BIN)/python benchmarks/report.py

reliability: $(VENV)/.dev ## the table of docs/reliability.md, from the marks of the tests
	$(BIN)/python tests/reliability.py

fuzz: $(VENV)/.fuzz ## change files and arguments at random, SECONDS=60 for each target and engine (ARGS=models: only that)
	$(AS_USER) $(BIN)/python fuzz --seconds $(SECONDS) $(ARGS)

docs: $(VENV)/.docs ## build the documentation into build/docs; a warning is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "open build/docs/index.html"

clean: ## remove everything that make built, .venv included
	rm -rf $(VENV) $(LOWEST) build dist demo-output .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp stands for one set of packages; a change of pyproject.toml installs again.
$(VENV)/.python:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	    if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        $$python -m venv $(VENV) && touch $@ && exit 0; \
	    fi; \
	done; \
	echo "dem needs Python 3.11 or newer with its venv module; none was found on PATH (set PYTHON=/path/to/python3)" >&2; \
	exit 1

$(VENV)/.demo: pyproject.toml | $(VENV)/.python
	@echo "installing dem into $(VENV) (a minute, once)"
	@$(call INSTALL,.[plot])
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.python
	@echo "installing dem and its tools into $(VENV) (a minute or two, once)"
	@$(call INSTALL,.[dev])
	@touch $@

$(VENV)/.docs: pyproject.toml | $(VENV)/.python
	@echo "installing dem and Sphinx into $(VENV) (a minute, once)"
	@$(call INSTALL,.[docs])
	@touch $@

$(VENV)/.fuzz: pyproject.toml | $(VENV)/.python
	@echo "installing dem and what fuzzes it into $(VENV) (a minute or two, once)"
	@$(call INSTALL,.[fuzz])
	@touch $@

$(VENV)/.peers: pyproject.toml | $(VENV)/.python
	@echo "installing dem and its peers into $(VENV) (a minute or two, once)"
	@$(call INSTALL,.[peers])
	@touch $@

$(LOWEST)/.test: pyproject.toml $(VENV)/.dev
	@echo "installing the lowest versions into $(LOWEST) (half a minute, once)"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(LOWEST)
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(LOWEST)/bin/python --resolution lowest-direct --editable ".[test,s3]"
	@touch $@
