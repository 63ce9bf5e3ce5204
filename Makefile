# Every command sets up what it needs, in .venv. The first time, that is what takes long.

.DEFAULT_GOAL := help

# Compiled modules are kept, else every process of the tests compiles torch again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
TORCH ?= 2.8.0

.PHONY: help demo test check docs browser format hooks api outputs release test-torch bench clean

help: ## say what the commands are
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s  %s\n", $$1, $$2}' Makefile

# Two steps: what the demo needs, and on top of it what the tests need.
.venv/.demo: pyproject.toml constraints.txt
	@echo "Installing torch and the package into .venv, once"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable ".[demo]"
	@touch $@

.venv/.ready: .venv/.demo
	@echo "Installing what the tests, the documentation and the examples need (1.5 GB), once"
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]"
	@touch $@

demo: .venv/.demo ## run examples/quickstart.py
	$(BIN)/python examples/quickstart.py

test: check browser docs ## check everything: format, lint, types, tests, documentation, examples
	@echo "Running all tests with $(WORKERS) workers: about ten minutes"
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadgroup

check: .venv/.ready ## check format, lint and types only
	@echo "Checking format, lint and types"
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright

docs: .venv/.ready ## build the documentation into docs/_build/html
	@echo "Building the documentation, and running its pages: about a minute"
	rm -rf docs/_build docs/errors
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -q -W --keep-going -j 2 docs docs/_build/html

# The tests walk the site in a browser, which root can install on Debian.
browser: ## install chromium, which the tests of the documentation use
	@command -v chromium > /dev/null && command -v chromedriver > /dev/null \
		|| test "$$(id -u)" -ne 0 \
		|| (apt-get update -qq && apt-get install -qq -y chromium chromium-driver) > /dev/null \
		|| echo "chromium and chromium-driver could not be installed"

format: .venv/.ready ## format, and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

hooks: .venv/.ready ## let git check format, lint and types before each commit
	$(BIN)/pre-commit install

api: .venv/.ready ## renew the list of public names, tests/public_api.txt
	$(BIN)/python -m tests.public_api

outputs: .venv/.ready ## renew what is stored of runs: outputs and picture of README and notebook
	$(BIN)/python -m tests.readme
	OMP_NUM_THREADS=1 $(BIN)/jupyter execute --inplace examples/quickstart.ipynb

release: .venv/.ready ## build wheel and sdist into dist/, and check them
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*

# Another torch has an environment of its own; its default build is several gigabytes.
.venv-torch-$(TORCH)/.ready: pyproject.toml
	@echo "Installing torch $(TORCH) into .venv-torch-$(TORCH), once"
	@$(PYTHON) -m venv .venv-torch-$(TORCH)
	@.venv-torch-$(TORCH)/bin/pip install --quiet torch==$(TORCH) --editable ".[demo,plot]" \
		"pytest>=8.2,<9.2" pytest-xdist pandas pyyaml safetensors
	@touch $@

test-torch: .venv-torch-$(TORCH)/.ready ## run the tests of the core with another torch: TORCH=2.8.0
	OMP_NUM_THREADS=1 .venv-torch-$(TORCH)/bin/pytest tests -n $(WORKERS) --dist loadgroup

# The peers share torch with the package; JAX has an environment of its own.
.venv-bench/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	$(PYTHON) -m venv .venv-jax
	.venv-jax/bin/pip install --quiet jax flowjax optax
	touch $@

bench: .venv-bench/.ready ## time the library beside its peers
	.venv-bench/bin/python benchmarks/run.py --jax .venv-jax/bin/python
	.venv-bench/bin/python benchmarks/step.py
	.venv-bench/bin/python benchmarks/loop.py
	.venv-bench/bin/python benchmarks/likelihood.py
	.venv-bench/bin/python benchmarks/fit_posteriors.py --peers

clean: ## remove environments and what was built
	rm -rf .venv .venv-bench .venv-jax .venv-torch-* docs/_build docs/errors dist
