# Every target sets itself up: on a bare machine `make test` makes .venv, installs and tests.
# PYTHON=python3.12 make setup chooses the interpreter; the default is the newest of 3.11 to 3.13.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
STAMP := .venv/.setup-done
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := torch==2.13.0
# What jax 0.10.2 asks for in its extra `tpu`; apart from .venv, where jax would look for a TPU.
LIBTPU := libtpu==0.0.42.1
SOURCES := $(wildcard glamm_jax train eval convert demo bench configs examples tools tests)
# The tests are checked as they run, by jaxtyping and beartype (tests/conftest.py).
TYPED := $(filter-out tests,$(SOURCES))

.DEFAULT_GOAL := help
.PHONY: help setup test test-slow test-beam lint format parity bench full-size tpu demo learn clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with all that the other targets need; seconds when it is there

# torch first and alone, so that the CPU build which the machine offers is taken; never torchvision.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; set PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet $(TORCH) -c constraints.txt
	$(PIP) install --quiet -e ".[dev,convert]" -c constraints.txt
	@touch $@

# Two processes, each test file in one of them: most of the time is XLA compiling on one core.
test: $(STAMP) ## the default tests: no network, no GPU; 20 minutes on two slow cores, less the next time
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-slow: $(STAMP) ## the tests marked slow
	$(BIN)/python -m pytest -q -m slow

test-beam: ## Apache Beam's two processes write the same bytes; in an environment of its own
	test -x .venv-beam/bin/python || $(PYTHON) -m venv .venv-beam
	.venv-beam/bin/python -m pip --disable-pip-version-check install --quiet -e ".[beam,dev]"
	.venv-beam/bin/python -m pytest -q -m slow tests/data/test_beam.py

lint: $(STAMP) ## ruff, pyright, import-linter
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python $(TYPED)

format: $(STAMP) ## rewrite the sources as ruff wants them
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

parity: $(STAMP) ## our numbers against the original's, at full and tiny size
	$(BIN)/python -m convert parity tests/goldens

bench: $(STAMP) ## CPU speed: against PyTorch, of conversion, mini-world, loader, metrics
	$(BIN)/python -m bench
	$(BIN)/python -m bench.conversion
	$(BIN)/python -m bench.miniworld
	$(BIN)/python -m bench.loader
	$(BIN)/python -m bench.metrics

full-size: $(STAMP) ## a 7B checkpoint there and back, and an answer from it; 40 GB of disk
	$(BIN)/python -m bench.full_size

tpu: $(STAMP) .libtpu/.done ## compile the full-size training step for eight TPU v5e; minutes, 7 GB
	PYTHONPATH=.libtpu $(BIN)/python -m glamm_jax plan --topology v5e:2x4 --mesh 1 8 1 --json bench/results/tpu.json

.libtpu/.done: Makefile
	$(PIP) install --quiet --no-deps --upgrade --target .libtpu $(LIBTPU)
	@touch $@

# Its minutes count from here, so that they hold the installation.
STARTED := $(shell date +%s)
demo: $(STAMP) ## the whole job: draw, import, evaluate, learn, evaluate, look; some ten minutes
	$(BIN)/python -m demo --since $(STARTED)

learn: $(STAMP) ## the tiny model learns the mini-world from nothing; 25 minutes on two cores
	$(BIN)/python -m examples.learn_miniworld --out out/learn

clean: ## remove caches and outputs; keeps .venv
	rm -rf out build .pytest_cache .ruff_cache .hypothesis .import_linter_cache .jax_cache *.egg-info
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
