# Each target sets up .venv by itself, once; it is done again when pyproject.toml, constraints.txt or install.py change.
#   make demo            stream a drawn world into an agent and ask about it (ends by itself)
#   make run             the same, staying up until Ctrl-C
#   make test            lint, types and tests; in CI the tests run in one of the surroundings of test-anywhere
#   make test-anywhere   the tests on other days, in other zones and locales, as other users, without parts of the network
#   make test-loaded     the tests that wait for something, beside 8 busy processes
#   make hardening       what takes hours: fuzzers, kills, an hour with 16 cameras; PARTS="http kills" for some of it
# PYTHON chooses the interpreter (3.11 or newer). The build of torch is chosen by uv (install.py). With TORCH_FLAGS pip
# installs torch with these flags instead, for example from an index of your choice: make TORCH_FLAGS="--index-url ..." demo

PYTHON ?= python3
PARTS ?=
TORCH_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo run test test-anywhere test-loaded tools lint hardening parity bench screenshots train clean
.DEFAULT_GOAL := demo

$(STAMP): pyproject.toml constraints.txt install.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python install.py $(TORCH_FLAGS)
	@touch $@

demo: $(STAMP)
	$(BIN)/vilamp demo

run: $(STAMP)
	$(BIN)/vilamp demo --run

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What some tests need from the system, where installing is allowed; else those tests skip.
tools:
	@sh tests/support/tools.sh

# With CI=true in the surroundings that the commit's hash draws (python tests/support/surroundings.py --list), else as it is.
test: lint tools
	$(BIN)/python tests/support/surroundings.py drawn -- $(BIN)/pytest

test-anywhere: $(STAMP) tools test-loaded
	$(BIN)/python tests/support/surroundings.py all -- $(BIN)/pytest

# The tests that wait for something, beside 8 busy processes.
test-loaded: $(STAMP) tools
	$(BIN)/python tests/support/surroundings.py load -- $(BIN)/pytest -m waits

# Fuzzers with their full counts, 200 kills each while frames come, in erasures and at first starts, an hour with 16 cameras.
hardening: $(STAMP)
	$(BIN)/python -m tests.hardening $(PARTS)

parity: $(STAMP)
	$(BIN)/pytest -k parity -rs

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# docs/pictures/page-*.png: every view of the page in light, dark and on a phone; needs Chromium.
screenshots: $(STAMP)
	$(BIN)/python -m tests.support.screenshots docs/pictures

# From nothing to out/training/checkpoint; a GPU and many cores help. Interrupted or out of time: run it again.
train: $(STAMP)
	$(BIN)/python -m model.training --folder out/training
	$(BIN)/python -m model.training.curves out/training/curves.jsonl out/training/curves.png

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
