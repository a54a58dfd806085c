# Every target works on a fresh machine that has Python ≥ 3.11 and make.
#
# Nothing is resolved at installation: a lock names every package with its version and its hashes, pip installs exactly
# these (`--no-deps`), and `pip check` shows that none is missing. So a new release on the index changes nothing.
ifndef PYTHON
PYTHON := $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; break; }; done)
endif
VENV := .venv
BIN := $(VENV)/bin
LOCK := tests/requirements.lock
BENCH_LOCK := tests/load/requirements.lock
BENCH_VENV := .venv-bench
PIP := -m pip --disable-pip-version-check --no-input
INSTALL_LOCKED := $(PIP) install --quiet --require-hashes --no-deps --requirement
# The stamp is written last, so an interrupted setup begins anew. Where PYTHON is named, the stamp names its version too:
# an environment of another version is made anew.
ifeq ($(origin PYTHON),file)
STAMP := .complete
else
STAMP := .complete-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
# A shell function: says what it does, does it, and says how long it took.
STEP = step() { what=$$1; shift; echo "setup: $$what …"; begun=$$(date +%s); "$$@" || \
	{ echo "setup: failed: $$what (to try again: make setup)" >&2; exit 1; }; \
	echo "setup: $$what: done in $$(( $$(date +%s) - begun )) s"; }

.DEFAULT_GOAL := help
.PHONY: help setup run test check format references lock bench load clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/$(STAMP) ## Make .venv with everything for development (PYTHON=python3.x chooses a Python)

$(VENV)/$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "setup: Python 3.11 or newer is needed; name one with: make setup PYTHON=python3.x" >&2; exit 1; }
	@$(STEP); \
	step "1 of 4, virtual environment in $(VENV) ($$($(PYTHON) --version))" $(PYTHON) -m venv --clear $(VENV); \
	step "2 of 4, packages of $(LOCK) (about a minute)" $(BIN)/python $(INSTALL_LOCKED) $(LOCK); \
	step "3 of 4, cluster-events itself" $(BIN)/python $(PIP) install --quiet --no-deps --no-build-isolation --editable .; \
	step "4 of 4, check that nothing is missing" $(BIN)/python $(PIP) check
	@touch $(VENV)/.complete $(VENV)/.complete-$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

run: setup ## Run everything on this machine, on an embedded store
	@$(BIN)/cluster-events dev

# Coverage doubles the time on Python 3.11, and says nothing about a part of the tests.
COVERAGE = $(if $(ARGS),,--cov --cov-report=term:skip-covered)
test: setup ## Run every test that this machine can run, or those that ARGS chooses
	$(BIN)/coverage erase
	$(BIN)/pytest -n auto --dist worksteal $(COVERAGE) $(ARGS)

check: setup ## Format, lint, types, import layers, tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

format: setup ## Bring the code into its format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

references: setup ## Write deploy/SETTINGS.md and deploy/METRICS.md from the code
	$(BIN)/python -m deploy.references

COMPILE := $(BIN)/uv pip compile -q --universal --generate-hashes --no-annotate --no-emit-index-url --no-header
lock: setup ## Choose the newest versions that pyproject.toml allows (no download addresses in the files)
	$(COMPILE) --python-version 3.11 --upgrade pyproject.toml -o deploy/requirements.lock
	$(COMPILE) --python-version 3.11 --upgrade -c deploy/requirements.lock --extra dev-server --group dev pyproject.toml \
		-o $(LOCK)
	$(COMPILE) --python-version 3.11 --upgrade -c $(LOCK) --group bench -o $(BENCH_LOCK)
	echo hatchling | $(COMPILE) --python-version 3.13 -c $(LOCK) - -o deploy/build.lock

# What is compared with lives apart: packages that are only there change what ours imports.
$(BENCH_VENV)/$(STAMP): $(BENCH_LOCK)
	@$(STEP); \
	step "1 of 3, virtual environment in $(BENCH_VENV)" $(PYTHON) -m venv --clear $(BENCH_VENV); \
	step "2 of 3, packages of $(BENCH_LOCK)" $(BENCH_VENV)/bin/python $(INSTALL_LOCKED) $(BENCH_LOCK); \
	step "3 of 3, check that nothing is missing" $(BENCH_VENV)/bin/python $(PIP) check
	@touch $@

bench: setup $(BENCH_VENV)/$(STAMP) ## Measure speed, side by side with others (needs nginx and wrk)
	@missed=0; \
	$(BIN)/python -m tests.load.bench $(ARGS) || missed=1; \
	$(BIN)/python -m tests.soak --only watchers || missed=1; \
	exit $$missed

load: setup ## Soak it: agents, changes and faults at once, held against a model
	$(BIN)/python -m tests.soak $(ARGS)

clean: ## Remove what was made here
	rm -rf $(VENV) .venv-* build .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* *.egg-info
	find service tests -name __pycache__ -type d -prune -exec rm -rf {} +
