# The commands of the project; each sets up what it needs in .venv.
PYTHON ?= python3
ARGS ?=
STAMP := .venv/.stamp
RUN := .venv/bin
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help setup demo test test-fast test-all check bench bench-quick docs clean

help:
	@echo "make demo        a small site on a real uWSGI, on 127.0.0.1 (ARGS=--once plays it by itself)"
	@echo "make test        all tests that need less than 8 minutes"
	@echo "make test-all    also the slow ones, other Pythons, and the page in a browser"
	@echo "make check       lint, format, types, floors, sizes"
	@echo "make bench-quick ours beside raw uWSGI, under 2 minutes"
	@echo "make docs        the documentation"
	@echo "make clean       remove what these made"

$(STAMP): pyproject.toml uv.lock scripts/setup
	PYTHON="$(PYTHON)" sh scripts/setup
	@touch $(STAMP)

setup: $(STAMP)

demo: $(STAMP)
	$(RUN)/python examples/quickstart/demo.py $(ARGS)

test-fast: $(STAMP)
	$(RUN)/python -m pytest tests/unit tests/contract -q -n 2

test: $(STAMP)
	$(RUN)/python -m pytest tests -q -n 2 --dist loadfile -m "not slow and not browser"

test-all: $(STAMP)
	$(RUN)/python -m pytest tests -q -n 2 --dist loadfile -m "slow or browser"
	sh scripts/other-pythons

check: $(STAMP)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/python scripts/check_sizes.py
	$(RUN)/pyright

bench bench-quick: $(STAMP)
	$(RUN)/python -m benchmarks.quick $(ARGS)

docs: $(STAMP)
	.venv/bin/python -m pip --version >/dev/null 2>&1 || true
	sh scripts/setup docs
	$(RUN)/python -m sphinx -n -W -b html docs docs/_build

clean:
	rm -rf .venv .venv-3.* .demo docs/_build build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
