# Everything from nothing: each target makes its own virtual environment first. Needs python3 (3.11 or newer) with venv.
PYTHON ?= python3
BIN := .venv/bin
N ?= 1

.PHONY: up test lint bench bench-signed bench-memory bench-policy bench-views live clean

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[all]" --group dev
	$(BIN)/python -m compileall -q bus_mesh adapters examples  # pip does that for all but editable projects
	touch $@

up: .venv/.ready            ## a whole mesh on this machine, with a demo shop
	exec $(BIN)/busmesh up --demo

test: .venv/.ready          ## every test, real processes included: some at a time, then those that measure time
	$(BIN)/python -m pytest -q -n 4 --dist loadfile -m "not alone"
	$(BIN)/python -m pytest -m alone

lint: .venv/.ready          ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/.ready         ## what gates cost, and calls through two agents beside plain nats-py; exit 1 when a floor is missed
	$(BIN)/python -m benchmarks.gates
	$(BIN)/python -m benchmarks.calls

bench-signed: .venv/.ready   ## what signing calls and keeping receipts costs beside sealing them; no floor
	$(BIN)/python -m benchmarks.signed

live: .venv/.ready          ## the tests with real processes, N times: as in `make test`, some at a time, then the others
	@for round in $$(seq $(N)); do \
		echo "round $$round of $(N)"; \
		$(BIN)/python -m pytest -q -n 4 --dist loadfile -m "not alone" tests/live || exit 1; \
		$(BIN)/python -m pytest -q -m alone tests/live || exit 1; \
	done

bench-memory: .venv/.ready  ## what two agents hold while a million calls go through them; exit 1 when it grows
	$(BIN)/python -m benchmarks.memory

bench-policy: .venv/.ready  ## a change of policy at a hundred agents, and ten thousand rules; exit 1 when a floor is missed
	$(BIN)/python -m benchmarks.policy

bench-views: .venv/.ready   ## what looking costs: a thousand instances listed, calls that are watched; exit 1 when a floor is missed
	$(BIN)/python -m benchmarks.views

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
