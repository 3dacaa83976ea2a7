# The commands of the project; each sets up what it needs in .venv. Nothing needs root.
PYTHON ?= python3
ARGS ?=
SECONDS ?= 60
IN := PATH="$(CURDIR)/.venv/bin:$$PATH"

.PHONY: help setup demo test test-fast test-all faults check lint types bench bench-quick docs lock clean

help:
	@echo "make demo         a small site on a real uWSGI, on 127.0.0.1 (ARGS=--once plays it by itself)"
	@echo "make test         the tests, under 8 minutes"
	@echo "make test-fast    those that need no server, seconds"
	@echo "make test-all     what make test leaves out: slow tests, a browser, the other Pythons"
	@echo "make faults       random kills and reloads for SECONDS=60, then a check that nothing is lost"
	@echo "make check        lint, format, types, floors, sizes (or: make lint, make types)"
	@echo "make bench-quick  ours beside raw uWSGI, under 2 minutes"
	@echo "make docs         the documentation, in docs/_build"
	@echo "make lock         choose newer versions of what we need (uv)"
	@echo "make clean        remove what these made"
	@echo "PYTHON=/path/to/python chooses the interpreter that .venv is made of"

# .venv/.test is enough for the demo; .venv/.dev adds the linters and type checkers.
.venv/.%: pyproject.toml uv.lock scripts/setup scripts/constraints.py
	PYTHON="$(PYTHON)" sh scripts/setup $*
	@touch $@

setup: .venv/.dev

demo: .venv/.test
	$(IN) python examples/quickstart/demo.py $(ARGS)

test-fast: .venv/.test
	$(IN) python -m pytest tests/unit tests/contract -q -n 2

test: .venv/.dev
	$(IN) python -m pytest tests -q -n 2 --dist loadfile -m "not slow and not browser"

test-all: .venv/.dev
	$(IN) python -m pytest tests -q -n 2 --dist loadfile -m "slow or browser"
	$(IN) sh scripts/other-pythons

faults: .venv/.test
	$(IN) python -m tests.faults.campaign --seconds $(SECONDS) $(ARGS)

check: lint types

lint: .venv/.dev
	$(IN) ruff check .
	$(IN) ruff format --check .
	$(IN) lint-imports
	$(IN) python scripts/check_sizes.py

types: .venv/.dev
	$(IN) mypy
	$(IN) pyright

bench bench-quick: .venv/.test
	$(IN) python -m benchmarks.quick $(ARGS)

docs: .venv/.docs
	$(IN) python -m sphinx -q -n -W --keep-going -b html docs docs/_build
	@echo "docs/_build/index.html"

lock:
	uv lock --upgrade

clean:
	rm -rf .venv .venv-3.* .demo docs/_build build dist
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
