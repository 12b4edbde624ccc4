# Everything runs in .venv, which is made when it is missing or when what it was made from has changed.
# On a machine with a GPU, CONSTRAINTS= installs the torch that its driver wants.

PYTHON ?= python3
CONSTRAINTS ?= -c constraints.txt
WORKERS ?= 2
BIN = .venv/bin

.PHONY: demo test check fuzz format bench clean

demo: .venv/used
	$(BIN)/mixer demo

test: .venv/dev
	$(BIN)/pytest -n $(WORKERS)

check: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest -n $(WORKERS)

fuzz: .venv/dev
	$(BIN)/python -m fuzz

format: .venv/dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

bench: .venv/dev
	$(BIN)/python benchmarks/start.py

clean:
	rm -rf .venv dist

.venv/used: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e .
	touch $@

.venv/dev: .venv/used
	$(BIN)/pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[dev]'
	touch $@
