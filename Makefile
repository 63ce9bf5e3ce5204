# `make demo` and `make test` set up all that they need, in .venv.

PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2

.PHONY: demo test docs browser format bench clean

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch numpy
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test]" hatchling
	touch $@

demo: .venv/.ready
	$(BIN)/python examples/quickstart.py

test: .venv/.ready browser docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadgroup

docs: .venv/.ready
	rm -rf docs/_build
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -q -W --keep-going -j 2 docs docs/_build/html

# The tests walk the site in a browser, which root can install on Debian.
browser:
	@command -v chromium > /dev/null && command -v chromedriver > /dev/null \
		|| test "$$(id -u)" -ne 0 \
		|| (apt-get update -qq && apt-get install -qq -y chromium chromium-driver) > /dev/null \
		|| echo "chromium and chromium-driver could not be installed"

format: .venv/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The peers share torch with the package; JAX has an environment of its own.
.venv-bench/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	$(PYTHON) -m venv .venv-jax
	.venv-jax/bin/pip install --quiet jax flowjax optax
	touch $@

bench: .venv-bench/.ready
	.venv-bench/bin/python benchmarks/run.py --jax .venv-jax/bin/python
	.venv-bench/bin/python benchmarks/step.py
	.venv-bench/bin/python benchmarks/loop.py

clean:
	rm -rf .venv .venv-bench .venv-jax docs/_build
