# Everything runs in .venv, which is made when it is missing or when what it was made from has changed.
# On a machine with a GPU, CONSTRAINTS= installs the torch that its driver wants.

PYTHON ?= python3
CONSTRAINTS ?= -c constraints.txt
WORKERS ?= 2
BIN = .venv/bin
# All tests of a file in one process: what its tests share is made once.
PYTEST = $(BIN)/pytest -n $(WORKERS) --dist loadfile

.PHONY: demo test lint slow thorough check fuzz format wheel docs bench clean

demo: .venv/used
	$(BIN)/mixer demo

test: .venv/dev
	$(PYTEST) -m "not slow and not thorough and not docs"

lint: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python

slow: .venv/dev
	$(PYTEST) -m slow

thorough: .venv/dev
	$(PYTEST) -m thorough

check: lint
	$(PYTEST) -m "not thorough and not docs" --cov=mlpmixer --cov-branch --cov-report=
	$(BIN)/coverage report --format=total

fuzz: .venv/dev
	$(BIN)/python -m fuzz $(FUZZ)

format: .venv/dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Builds the sdist, and the wheel from it; checks what PyPI would show of them, and tries the wheel in a fresh
# environment, away from the source tree.
wheel: .venv/dev
	rm -rf dist
	$(BIN)/pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz
	rm -rf dist/alone && $(PYTHON) -m venv dist/alone/.venv
	dist/alone/.venv/bin/pip install --quiet --disable-pip-version-check $(CONSTRAINTS) dist/*.whl
	cp src/mlpmixer/weights/bundled/cat.jpg dist/alone/
	cd dist/alone && .venv/bin/mixer --help && .venv/bin/mixer models
	cd dist/alone && .venv/bin/mixer predict cat.jpg && .venv/bin/mixer train fashion_mnist --train.steps 100

# The site, in site/; a broken link stops it.
docs: .venv/dev
	$(BIN)/python docs/generate.py --check
	$(BIN)/zensical build --strict
	$(PYTEST) -m docs

bench: .venv/dev
	$(BIN)/python benchmarks/start.py

clean:
	rm -rf .venv dist site

.venv/used: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e .
	touch $@

.venv/dev: .venv/used
	$(BIN)/pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[dev]'
	touch $@
