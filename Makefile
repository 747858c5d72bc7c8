# `make demo` and `make test` set up what they need in $(VENV) and run.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests run in so many processes, a thread each.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
INSTALLED := $(VENV)/.installed

.PHONY: help demo test check lint setup clean

help:
	@echo "make demo   set up and run the whole way on the embedded model (runs/demo)"
	@echo "make test   set up and run all tests"
	@echo "make check  lint, types and the fast tests"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	$(BIN)/quantspectrum demo --out runs/demo

test: setup
	$(PYTEST)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint
	$(PYTEST) -m "not slow and not browser"

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .mypy_cache .hypothesis
