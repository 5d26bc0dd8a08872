# `make help` lists the targets. The first use of most targets installs the project into .venv; changing pyproject.toml,
# constraints.txt or install.py installs it again.

PYTHON ?= python3
PARTS ?=
PARITY_DIR ?= ../shared/parity
TORCH_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two processes; a free one takes tests over from the other.
PARALLEL := -n 2 --dist worksteal

.PHONY: help demo run real check test test-anywhere test-loaded tools lint hardening parity recordings bench screenshots train clean
.DEFAULT_GOAL := demo

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "PYTHON=python3.12 chooses the interpreter (3.11 or newer)."
	@echo "TORCH_FLAGS=\"--index-url ...\" installs torch with pip and these flags; without it uv chooses the build of torch."

$(STAMP): pyproject.toml constraints.txt install.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python install.py $(TORCH_FLAGS)
	@touch $@

demo: $(STAMP) ## stream a drawn world into an agent, ask about it, and end (the default)
	$(BIN)/vilamp demo

run: $(STAMP) ## the same, but stay up until Ctrl-C
	$(BIN)/vilamp demo --run

real: $(STAMP) ## the way of real cameras, from RTSP to answers: clips beside the project, else drawn videos; to out/real
	$(BIN)/python -m tests.support.real

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint ## lint, types and the tests that start no server; about a minute
	$(BIN)/pytest $(PARALLEL) -m "not server"

tools: ## install mosquitto, Chromium and nginx where that is allowed; without them some tests skip
	@sh tests/support/tools.sh

# With CI=true in the surroundings that the commit's hash draws (tests/support/surroundings.py --list).
test: lint tools ## lint, types and all tests
	$(BIN)/python tests/support/surroundings.py drawn -- $(BIN)/pytest $(PARALLEL)

test-anywhere: $(STAMP) tools test-loaded ## all tests in each of the surroundings: other day, zone, user, network
	$(BIN)/python tests/support/surroundings.py all -- $(BIN)/pytest $(PARALLEL)

test-loaded: $(STAMP) tools ## the tests that wait for something, beside 8 busy processes
	$(BIN)/python tests/support/surroundings.py load -- $(BIN)/pytest -m waits

hardening: $(STAMP) ## fuzzers, kills and an hour with 16 cameras: hours; PARTS="http kills" for some of it
	$(BIN)/python -m tests.hardening $(PARTS)

recordings:
	@test -f "$(PARITY_DIR)/goldens/runs.json" || { \
		echo "make parity: no recordings of the published code in $(PARITY_DIR)."; \
		echo "They are not part of the project. If you have them: make parity PARITY_DIR=<folder>"; exit 1; }

parity: recordings $(STAMP) ## compare with recordings of the published code, in PARITY_DIR=../shared/parity
	PARITY_DIR="$(PARITY_DIR)" $(BIN)/pytest tests/model/test_parity.py -rs

bench: $(STAMP) ## the benchmarks in short form, to out/benchmarks
	$(BIN)/python -m benchmarks

screenshots: $(STAMP) ## every view of the page in light, dark and on a phone, to docs/pictures; needs Chromium
	$(BIN)/python -m tests.support.screenshots docs/pictures

train: $(STAMP) ## train the built-in model from nothing, to out/training; continues where it was interrupted
	$(BIN)/python -m model.training --folder out/training
	$(BIN)/python -m model.training.curves out/training/curves.jsonl out/training/curves.png

clean: ## remove .venv, the caches and what a build made
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
