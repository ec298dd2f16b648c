# Two commands for a newcomer: `make demo` and `make test`. Both set up everything they need.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Spinning OpenMP threads stall each other on a shared machine.
export OMP_WAIT_POLICY ?= PASSIVE
WORKERS ?= 2
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; found $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	@if ! $(PYTHON) -m venv $(VENV); then \
	  rm -rf $(VENV); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing Debian's python3-venv"; apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv && $(PYTHON) -m venv $(VENV); \
	  else echo "python3-venv is missing: sudo apt-get install python3-venv, then run make again"; exit 1; fi; fi

$(STAMP): $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

install: $(STAMP)  ## create .venv and install polyclinic with pinned versions

demo: $(STAMP)  ## ingest → pretrain → adapt → prove on the embedded hospital; ends with the report's path
	$(BIN)/polyclinic demo --hospital examples/hospital/data --out demo

system:  # Debian packages that the browser tests need, where this user may install them
	@if ! command -v chromium >/dev/null; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get update -q >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium >/dev/null; \
	  else echo "chromium is not installed and this user may not install it: the browser tests will be skipped and say so (sudo apt-get install chromium)"; fi; fi

lint: $(STAMP)  ## ruff, pyright and the import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

test: $(STAMP) system lint  ## every check: ruff, pyright, import-linter, pytest
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

fast: $(STAMP)  ## the unmarked tests only
	$(BIN)/python -m pytest -m "not slow and not server and not browser"

docs: $(STAMP)  ## build the documentation, warnings as errors
	DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict

bench: $(STAMP)  ## run every benchmark and rewrite benchmarks/README.md
	$(BIN)/python -m benchmarks

clean:  ## remove what the commands above made
	rm -rf $(VENV) demo site .pytest_cache .ruff_cache .hypothesis

.PHONY: help install demo system lint test fast docs bench clean
