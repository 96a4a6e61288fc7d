# Everything a fresh machine needs is python3.11+ and make.
# The first Python on the path that is new enough.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo serve test bench-learning bench-serving chaos fuzz check lint clean

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Metagraft needs Python 3.11 or newer on the path."; exit 1; }
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

# Needs the development data beside the checkout, or DATA=folder. QUICK=1: the short form; SUITES="pacs heart": only these.
bench-learning: install
	$(BIN)/python -m benchmarks.learning $(SUITES) $(if $(QUICK),--quick) $(if $(DATA),--data $(DATA))

# Serving beside peers, which it installs into environments of their own. QUICK=1: the short form; PARTS="text many": only these.
bench-serving: install
	$(BIN)/python -m benchmarks.serving $(PARTS) $(if $(QUICK),--quick) $(if $(DATA),--data $(DATA))

# Kills, frozen processes and failing disks while jobs run. QUICK=1: the short form; SCENARIOS="kills cancel": only these.
chaos: install
	$(BIN)/python -m benchmarks.chaos $(SCENARIOS) $(if $(QUICK),--short)

# Hostile files, requests and clients. QUICK=1: the short form; SCENARIOS="attacks schema": only these.
fuzz: install
	$(BIN)/python -m benchmarks.fuzz $(SCENARIOS) $(if $(QUICK),--short)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m app.cli migrate --check

check: lint demo test

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build
