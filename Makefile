# The commands of this repository: `make help`.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup run test test-slow test-chaos check format bench mutate lock clean

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.bench-ready
MUTATE_READY := $(VENV)/.mutate-ready
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header
ARGS ?=

# Each run of a workflow imports its module again, and would compile it each time without bytecode.
unexport PYTHONDONTWRITEBYTECODE

help: ## list what there is to make
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make the virtual environment with the locked packages

run: $(READY) ## start the embedded stack; ARGS="--api-port 8081" adds arguments
	@exec $(BIN)/python -m cli dev $(ARGS)

test: $(READY) ## the tests, against real Postgres and real Temporal; ARGS="-k name" adds arguments
	@exec $(BIN)/python -m pytest -q -n 3 --dist loadgroup --no-loadscope-reorder -m "not slow and not chaos" $(ARGS)

test-slow: $(READY) ## the tests that start whole stacks, load them, or wait for real time
	@exec $(BIN)/python -m pytest -q -n 2 --dist loadgroup -m slow $(ARGS)

test-chaos: $(READY) ## the tests that kill processes under load
	@exec $(BIN)/python -m pytest -q --timeout 900 -m chaos $(ARGS)

check: $(READY) ## lint, format, types, imports, and whether migrations and data map match the models
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/python -m cli check-migrations
	$(BIN)/python -m cli data-map --check

format: $(READY) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BENCH_READY) ## the benchmarks, each with its ceiling in the same run; ARGS="--quick auth" passes arguments on
	@exec $(BIN)/python -m benchmarks $(ARGS)

mutate: $(MUTATE_READY) ## small changes of the code that no quick test notices; ARGS="--seconds 300 privacy/masking.py"
	@exec nice -n 19 $(BIN)/python -m tests.mutation $(ARGS)

lock: $(READY) ## choose versions again and write the lock files; ARGS="--upgrade" takes newer ones
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) $(ARGS) --extra dev --output-file requirements.txt pyproject.toml
	$(COMPILE) $(ARGS) --constraints requirements.txt --output-file benchmarks/requirements.txt benchmarks/requirements.in
	$(COMPILE) $(ARGS) --constraints requirements.txt --output-file tests/mutation/requirements.txt tests/mutation/requirements.in

clean: ## remove the virtual environment and caches; state in .perennial stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info

# The script takes a lock, so that `make run` and `make test` side by side in a fresh clone install once.
$(READY): requirements.txt pyproject.toml
	@for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
		if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			exec $$python deploy/virtualenv.py; \
		fi; \
	done; \
	echo "Python 3.11 or newer is needed and was not found on the path." >&2; exit 1

# The peers that the benchmarks compare with, on top of the locked packages.
$(BENCH_READY): $(READY) benchmarks/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r benchmarks/requirements.txt
	@touch $(BENCH_READY)

# mutmut and its packages, which nothing else needs.
$(MUTATE_READY): $(READY) tests/mutation/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/mutation/requirements.txt
	@touch $(MUTATE_READY)
