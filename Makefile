# Everything that is done with this repository: `make help`.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test test-slow test-chaos check format bench lock clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

# Every run of a workflow imports its module anew: without bytecode to read it would compile it each time.
unexport PYTHONDONTWRITEBYTECODE

help: ## list what there is to make
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make the virtual environment

run: $(READY) ## start the embedded stack; ARGS="--home DIR --api-port 0" passes arguments on
	@exec $(BIN)/python -m cli dev $(ARGS)

test: $(READY) ## the tests, against real Postgres and real Temporal; ARGS="-k name" passes arguments on
	@exec $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not chaos" $(ARGS)

test-slow: $(READY) ## the tests that start whole stacks or load them
	@exec $(BIN)/python -m pytest -q -m slow $(ARGS)

test-chaos: $(READY) ## the tests that kill processes under load
	@exec $(BIN)/python -m pytest -q -m chaos $(ARGS)

check: $(READY) ## lint, format, types, import contract, migrations and data map in step with the models
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python -m cli check-migrations
	$(BIN)/python -m cli data-map --check

format: $(READY) ## put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## the benchmarks, each beside its ceiling in the same run
	@exec $(BIN)/python -m benchmarks $(ARGS)

lock: $(READY) ## choose versions anew and write requirements.txt; ARGS="--upgrade" takes newer ones
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --generate-hashes \
		--no-emit-index-url --no-emit-find-links --no-header $(ARGS) --output-file requirements.txt pyproject.toml

clean: ## remove the virtual environment and caches; state in .perennial stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info

# Locked versions with hashes; the project itself is linked in without fetching anything to build it.
$(READY): requirements.txt pyproject.toml
	@python=""; \
	for candidate in python3 python3.14 python3.13 python3.12 python3.11 python; do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			python=$$candidate; break; \
		fi; \
	done; \
	if [ -z "$$python" ]; then echo "Python 3.11 or newer is needed and was not found on the path." >&2; exit 1; fi; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		$$python -m venv --clear $(VENV); \
	fi
	@echo "installing the locked packages into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)
