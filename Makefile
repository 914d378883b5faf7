# Needs Python 3.11 to 3.13, make and git. Most targets first create .venv, or update it if the lock, pyproject.toml or this file changed.
#   make train ARGS="experiment=mnist"     pass overrides to blitz-train
#   make train TORCH_BACKEND=cpu           install another build of torch (cpu, cu126, rocm6.4, auto, ...: uv's torch backends)
UV_VERSION := 0.13.9
LOGS ?= logs

ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := .venv/Scripts
else
PYTHON ?= python3
BIN := .venv/bin
endif

# The hashes in the lock are those of torch's default builds. Another backend uses the same versions, without hashes.
UV_INSTALL = $(BIN)/python -m uv pip install --python .venv --compile-bytecode
ifdef TORCH_BACKEND
LOCKED = $(UV_INSTALL) --torch-backend $(TORCH_BACKEND) --no-verify-hashes --constraint requirements.lock ".[dev]"
else
LOCKED = $(UV_INSTALL) --require-hashes -r requirements.lock
endif

.DEFAULT_GOAL := help
.PHONY: help train test lint tour dashboard bench doctor lock clean

help:  ## print this list
	@$(PYTHON) -c "import re; [print(f'make {t:<10} {d}') for t, d in re.findall(r'^(\w+):.*?## (.*)', open('Makefile').read(), re.M)]"

train: .venv/ready  ## train and test a model; ARGS="data=mnist optimizer=adam" passes overrides
	$(BIN)/blitz-train $(ARGS)

test: lint  ## run make lint and all tests; ARGS="-k digits" selects tests
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: .venv/ready  ## run ruff and mypy, and list the private names of libraries that src/ uses
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/private_names.py

tour: .venv/ready  ## run the tutorial's lessons; their plots are saved in logs/tour/
	@for lesson in scripts/tour/*.py; do printf '\n%s\n\n' $$lesson; $(BIN)/python $$lesson || exit 1; done

dashboard: .venv/ready  ## start TensorBoard on logs/
	$(BIN)/tensorboard --logdir $(LOGS)

bench: .venv/ready  ## measure the speed against other training loops; ARGS=--quick takes less than two minutes
	$(BIN)/python scripts/benchmark.py $(ARGS)

doctor: .venv/ready  ## make a short run on every device of this machine and compare the results
	$(BIN)/blitz-doctor

lock: .venv/ready  ## update requirements.lock from pyproject.toml
	$(BIN)/python -m uv pip compile pyproject.toml --extra dev --universal --generate-hashes --python-version 3.11 --no-header --upgrade -o requirements.lock

clean:  ## remove .venv and caches, but not data/ or logs/
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache

# Scripts in .venv contain its absolute path: build it again if the repository was moved.
ifneq ($(shell cat .venv/ready 2>/dev/null),$(CURDIR))
.PHONY: .venv/ready
endif

.venv/ready: requirements.lock pyproject.toml Makefile
	@$(PYTHON) -c "import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit('blitz needs Python 3.11, 3.12 or 3.13, $(PYTHON) is ' + sys.version.split()[0] + '; try: make PYTHON=python3.12')"
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(LOCKED)
	$(UV_INSTALL) --no-deps --no-build-isolation --editable .
	@echo '$(CURDIR)' > .venv/ready
