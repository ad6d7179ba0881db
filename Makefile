# Interlock. `make run` and `make test` need nothing but Python 3.11 and make: they set up the rest themselves.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests wait as much as they compute: three processes of them fill two cores. A file's tests stay in one.
PROCESSES ?= 3
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
# A package of ours is called providers/stripe: nothing may ever import it in place of the SDK.
export PYTHONSAFEPATH := 1

.DEFAULT_GOAL := help
.PHONY: help run test check nightly bench bench-transport bench-routing format lock vendor docs debian clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

run: $(VENV)/run.stamp ## Start everything on this machine: make run ARGS="--port 9090"
	@exec $(BIN)/gateway dev $(ARGS)

test: $(VENV)/dev.stamp debian ## Run all tests: make test ARGS="-k webhooks"
	@$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/dev.stamp ## Format, lint, types, import contracts, printed pages, tests: what CI runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m gateway.printed --check
	$(MAKE) --no-print-directory test

debian: ## Install what tests take from Debian, where that is allowed; without it they are skipped and say so
	@command -v chromium > /dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && echo "installing Chromium (once)" && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core > /dev/null; } || true
	@# The tool alone and not its package, which would start a Prometheus here: so it takes no root.
	@command -v promtool $(BIN)/promtool > /dev/null || { command -v apt-get > /dev/null && echo "fetching promtool (once)" && \
		{ [ "$$(id -u)" != 0 ] || apt-get update -qq; } && work=$$(mktemp -d) && \
		{ (cd $$work && apt-get download -qq prometheus 2> /dev/null && dpkg-deb --extract prometheus_*.deb .) && \
		cp $$work/usr/bin/promtool $(BIN)/promtool; rm -rf $$work; }; } || true

nightly: $(VENV)/dev.stamp debian ## Run the long proofs: simulations, full matrices (hours)
	@$(BIN)/python -m pytest -m nightly --timeout 0 $(ARGS)

bench: $(VENV)/dev.stamp ## Measure the gateway beside a floor program and a plain endpoint, and its webhooks
	@$(BIN)/python -m bench.run $(ARGS)

bench-transport: $(VENV)/dev.stamp ## Measure what one call through each SDK costs over each transport
	@$(BIN)/python -m bench.transport $(ARGS)

bench-routing: $(VENV)/dev.stamp ## Measure what routing strategies gain, and print the page: ARGS="--only adaptive" for a look
	@$(BIN)/python -m bench.routing $(or $(ARGS),--page --processes 2)

format: $(VENV)/dev.stamp ## Format, and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/dev.stamp ## Print the pages that come from the code
	$(BIN)/python -m gateway.printed

# Hashes and versions, no index address: whoever installs chooses where from. For every platform and Python from 3.11 on,
# and nothing younger than a week: a hijacked release is usually found within days.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--exclude-newer "$$(date -u -d '7 days ago' +%F)"
lock: $(VENV)/dev.stamp ## Resolve the dependencies anew
	$(COMPILE) --upgrade --output-file requirements/serve.lock pyproject.toml
	$(COMPILE) --extra embedded --constraint requirements/serve.lock --output-file requirements/run.lock pyproject.toml
	$(COMPILE) --extra embedded --extra dev --constraint requirements/run.lock --output-file requirements/dev.lock pyproject.toml
	$(COMPILE) --constraint requirements/run.lock --output-file requirements/build.lock requirements/build.in

vendor: $(VENV)/dev.stamp ## Take the console's libraries from npm anew, as gateway/console/vendoring.py names them
	@$(BIN)/python -m gateway.console.vendoring

clean: ## Remove what was set up (not the data in .gateway)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Interlock needs Python 3.11 or newer: make run PYTHON=python3.11"; exit 1; }
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements/run.lock pyproject.toml | $(BIN)/python
	@echo "installing the locked dependencies (once)"
	@$(PIP) --requirement requirements/run.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements/dev.lock pyproject.toml | $(BIN)/python
	@echo "installing the locked dependencies (once)"
	@$(PIP) --requirement requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/run.stamp
