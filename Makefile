# Two commands after the clone: `make lab` opens the workspace, `make test` runs all tests.
# Every target sets `.venv` up by itself, with uv when it is on PATH, else with venv and pip.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.trellis-stamp
UV := $(shell command -v uv 2>/dev/null)
# If PYTHON is named and cannot be used, that is an error. No other Python is taken instead.
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.14 python3.11)

.PHONY: help setup hooks lab demo test quick coverage up down migrate workers api lint format types spelling notebooks schema lock
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

$(STAMP): requirements.lock pyproject.toml
	@found=""; for candidate in $(CANDIDATES); do \
		if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then found="$$candidate"; break; fi; done; \
	if [ -z "$$found" ]; then echo "Trellis needs Python 3.11 to 3.14, and none of these is one: $(CANDIDATES). Install one, or name it with 'make PYTHON=/path/to/python3.12 setup'." >&2; exit 1; fi; \
	echo "Setting up .venv with $$("$$found" --version) and $(if $(UV),uv,pip): about 180 packages, one to three minutes. This happens once." >&2; \
	if [ -n "$(UV)" ]; then \
		"$(UV)" venv --quiet --clear --python "$$found" $(VENV) && \
		"$(UV)" pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock && \
		"$(UV)" pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .; \
	else \
		"$$found" -m venv --clear $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
	fi
	@touch $(STAMP)
	@echo "Ready: .venv is set up." >&2

setup: $(STAMP) ## make .venv from the hashed lock file

lab: setup ## open JupyterLab with both servers running
	@$(BIN)/trellis lab

demo: setup ## one order, live in the terminal
	@$(BIN)/trellis demo

test: setup ## all tests (about ten minutes on two cores)
	@$(BIN)/python -m pytest -n 2 --dist loadfile

quick: setup ## the tests without browser, notebooks and slow tests (under two minutes)
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" tests/unit tests/replay tests/integration

coverage: setup ## all tests, with the share of branches that they cover
	@$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term-missing:skip-covered

up: setup ## start both servers
	@$(BIN)/trellis up

down: setup ## end both servers
	@$(BIN)/trellis down

migrate: setup ## bring the ledger's schema up to date
	@$(BIN)/trellis migrate

workers: setup ## run the workers of both queues until Ctrl-C
	@$(BIN)/trellis worker

api: setup ## serve orders over HTTP on port 8000 until Ctrl-C
	@$(BIN)/trellis api

lint: setup ## ruff, check and format
	@$(BIN)/ruff check trellis tests notebooks && $(BIN)/ruff format --check trellis tests notebooks

format: setup ## let ruff correct what it can
	@$(BIN)/ruff check --fix trellis tests notebooks; $(BIN)/ruff format trellis tests notebooks

types: setup ## mypy, strict
	@$(BIN)/mypy

spelling: setup ## codespell over code and texts
	@$(BIN)/codespell

hooks: setup ## run lint, types and spelling before each commit
	@$(BIN)/pre-commit install

notebooks: setup ## run all notebooks and store their outputs
	@$(BIN)/trellis notebooks --write

schema: setup ## write sql/schema.sql again from the migrations (servers must run: make up)
	@$(BIN)/trellis migrate --schema > sql/schema.sql.new && mv sql/schema.sql.new sql/schema.sql

lock: ## renew requirements.lock (needs uv)
	@uv lock --quiet --upgrade && uv export --quiet --no-emit-project --all-groups --no-header --no-annotate --format requirements-txt > requirements.lock
