# Every target works on a fresh machine that has Python ≥ 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCK := tests/requirements.lock
BENCH_LOCK := tests/load/requirements.lock
BENCH_VENV := .venv-bench
STAMP := $(VENV)/.complete

.DEFAULT_GOAL := help
.PHONY: help setup run test check format lock bench load clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(STAMP) ## Make .venv with everything for development

$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.x"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

run: setup ## Run everything on this machine, on an embedded store
	@$(BIN)/cluster-events dev

test: setup ## Run every test that this machine can run
	$(BIN)/coverage erase
	$(BIN)/pytest -n auto --dist worksteal --cov --cov-report=term:skip-covered $(ARGS)

check: setup ## Format, lint, types, import layers, tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

format: setup ## Bring the code into its format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: setup ## Choose the newest versions that pyproject.toml allows (no download addresses in the files)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
		--no-header --upgrade pyproject.toml -o deploy/requirements.lock
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
		--no-header --upgrade -c deploy/requirements.lock --extra dev-server --group dev pyproject.toml -o $(LOCK)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
		--no-header --upgrade -c $(LOCK) --group bench -o $(BENCH_LOCK)
	echo hatchling | $(BIN)/uv pip compile -q --universal --python-version 3.13 --generate-hashes --no-annotate \
		--no-emit-index-url --no-header -c $(LOCK) - -o deploy/build.lock

# What is compared with lives apart: packages that are only there change what ours imports.
$(BENCH_VENV)/.complete: $(BENCH_LOCK)
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $(BENCH_LOCK)
	@touch $@

bench: setup $(BENCH_VENV)/.complete ## Measure speed, side by side with others (needs nginx and wrk)
	@missed=0; \
	$(BIN)/python -m tests.load.bench $(ARGS) || missed=1; \
	$(BIN)/python -m tests.soak --only watchers || missed=1; \
	exit $$missed

load: setup ## Soak it: agents, changes and faults at once, held against a model
	$(BIN)/python -m tests.soak $(ARGS)

clean: ## Remove what was made here
	rm -rf $(VENV) $(BENCH_VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* *.egg-info
	find service tests -name __pycache__ -type d -prune -exec rm -rf {} +
