# demo, test and lint, each from a fresh checkout with nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint
demo: $(VENV)/demo-installed
	$(BIN)/edgedraft demo

test: $(VENV)/test-installed
	$(BIN)/python -m pytest

lint: $(VENV)/test-installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

# torch comes first and by its exact version, so that its CPU build is taken where there is one.
$(VENV)/demo-installed $(VENV)/test-installed: $(VENV)/%-installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt torch
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[$*]'
	touch $@
