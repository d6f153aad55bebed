# Two commands: `make demo` shows what this is, `make test` proves it. Both make .venv and install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# What checks the page's script comes from npm, where that is; no user needs it.
WEB := $(if $(shell command -v npm),node_modules/.package-lock.json)

.PHONY: bench demo test test-slow check fix clean help

help:            ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

demo: $(VENV)/.demo          ## train a network on real digits, make it separable, compare, write report.html
	$(BIN)/depthwise demo

test: $(VENV)/.test $(WEB)   ## the whole suite but the slow tests
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/.dev $(WEB) ## stress, long fuzzing, the wheel in a bare environment, both commands from a fresh clone
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m "slow and not alone"
	$(BIN)/python -m pytest -q -m alone tests/slow tests/backends/cpu/test_launch.py

bench: $(VENV)/.test         ## layers, whole networks and training against this machine's peak and other libraries; writes benchmarks/results/
	$(BIN)/python -m benchmarks $(ARGS)
	$(if $(ARGS),,$(BIN)/python -m benchmarks.whole)
	$(if $(ARGS),,$(BIN)/python -m benchmarks.training)

check: $(VENV)/.dev $(WEB)   ## lint, format, types, floors, lengths and circles; writes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if [ -x node_modules/.bin/tsc ]; then node_modules/.bin/tsc --project tsconfig.json; \
	  elif [ "$$DEPTHWISE_BROWSER" = required ]; then echo "tsc is missing: npm ci"; exit 1; \
	  else echo "no npm: the types of the page's script are not checked"; fi
	$(BIN)/python -m pytest -q tests/test_floors.py tests/test_style.py

fix: $(VENV)/.dev            ## what `check` asks for, where a tool can do it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:           ## remove the environment and every cache
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis dist node_modules

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "depthwise needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The extra of pyproject.toml that each command needs: .demo, .test, .dev.
$(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

node_modules/.package-lock.json: package.json package-lock.json
	@npm ci --ignore-scripts --no-audit --no-fund --silent || [ "$$DEPTHWISE_BROWSER" != required ]
