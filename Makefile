# Two commands on a fresh machine with Python 3.11 or newer, git and make:
#   make demo     three hospitals and a coordinator on this machine, start to finish
#   make test     everything that must be green before a change lands
# Each does its own set-up in .venv; nothing else on the machine is touched.

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.fedprint-installed
TORCH := torch==2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
PYTEST_WORKERS ?= 2
DEMO ?= demo-run
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

# Debian packages that tests use; tests that miss one are skipped and say so.
DEBIAN := chromium tinyproxy strace iproute2

.PHONY: help setup debian demo test test-long mutation coverage lint types unit wheel smoke clean

help:
	@sed -n '1,5p' Makefile | sed 's/^# \{0,1\}//'
	@echo "Others: setup lint types unit test-long mutation coverage wheel smoke clean"

setup: $(STAMP)

# torch first and alone: if this machine's index would give a CUDA build (gigabytes), take the CPU index.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: set PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: set PYTHON=/path/to/python3.11"; exit 2; }
	@echo "setup: virtual environment $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=23.2" 2>&1 | { grep -v '^WARNING: Location' || true; }
	@echo "setup: $(TORCH), CPU build"
	@if [ "$$(uname -s)" = Linux ] && ! $(BIN)/python -m pip install --quiet --dry-run --no-deps --ignore-installed --report - $(TORCH) 2>/dev/null | grep -q '"version": "2.13.0+cpu"'; then \
	  set -o pipefail; $(BIN)/python -m pip install --quiet -c constraints.txt --extra-index-url $(TORCH_CPU_INDEX) "$(TORCH)+cpu" 2>&1 | { grep -v '^WARNING: Location' || true; }; \
	else set -o pipefail; $(BIN)/python -m pip install --quiet -c constraints.txt $(TORCH) 2>&1 | { grep -v '^WARNING: Location' || true; }; fi
	@echo "setup: fedprint and pinned packages"
	@set -o pipefail; $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]' 2>&1 | { grep -v '^WARNING: Location' || true; }
	@! $(BIN)/python -m pip list --format=freeze 2>/dev/null | grep -qi '^nvidia-' || { echo "setup: CUDA packages came in; that is not wanted here"; exit 1; }
	@touch $(STAMP)

demo: setup
	$(BIN)/fedprint-lab demo $(DEMO) $(DEMO_OPTIONS)

test: setup debian lint types unit coverage

# Only where there is apt and we may use it (a fresh CI machine); else the tests concerned are skipped.
debian:
	@missing=$$(for name in $(DEBIAN); do dpkg -s $$name >/dev/null 2>&1 || echo $$name; done); \
	if [ -n "$$missing" ]; then \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    echo "setup: Debian packages:" $$missing; \
	    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing; } >/dev/null 2>&1 \
	      || echo "setup: they could not be installed; tests that need them will be skipped"; \
	  else echo "setup: not installed here, tests that need them will be skipped:" $$missing; fi; fi

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

unit: setup
	$(BIN)/pytest -q -n $(PYTEST_WORKERS) --dist loadfile -m "not long"

# Every branch of the secure sum and its messages is taken by its own unit tests.
coverage: setup
	@mkdir -p build
	COVERAGE_FILE=build/coverage $(BIN)/pytest -q tests/unit/secure_sum --cov=shared_model/secure_sum --cov=shared_model.protocol \
	  --cov=shared_model.protocol_base --cov=shared_model.protocol_open --cov=shared_model.protocol_sum \
	  --cov=shared_model.verify_body --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=100

# The whole crash, fuzz and retention matrices (an hour or more), and every mutant of the secure sum.
test-long: setup debian mutation
	FEDPRINT_FUZZ=2000 $(BIN)/pytest -q -n $(PYTEST_WORKERS) --dist loadfile

# Changes the secure sum in thousands of ways, in a copy; the tests must see every change that
# docs/mutation.md does not explain. A quarter of an hour on two cores.
MUTATED := shared_model/protocol.py shared_model/protocol_base.py shared_model/protocol_open.py \
  shared_model/protocol_sum.py shared_model/secure_sum/*.py
mutation: setup
	@rm -rf build/mutation && mkdir -p build/mutation
	@tar -c pyproject.toml shared_model tests docs/mutation.md | tar -x -C build/mutation
	@cd build/mutation && $(abspath $(BIN))/python tests/mutation/undecorate.py $(MUTATED)
	cd build/mutation && OMP_NUM_THREADS=1 $(abspath $(BIN))/mutmut run --max-children $(PYTEST_WORKERS) > mutmut.log
	cd build/mutation && $(abspath $(BIN))/python tests/mutation/check_survivors.py

wheel: setup
	@rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist . 2>&1 | tail -1

# The built wheel in an environment of its own, without the researchers' extras: what a hospital installs.
smoke: wheel
	@rm -rf build/smoke && mkdir -p build/smoke
	@$(PYTHON) -m venv build/smoke/venv
	@$(BIN)/python -m pip --python build/smoke/venv/bin/python install --quiet -c constraints.txt $(TORCH) 2>&1 | { grep -v '^WARNING: Location' || true; }
	@$(BIN)/python -m pip --python build/smoke/venv/bin/python install --quiet -c constraints.txt dist/*.whl 2>&1 | { grep -v '^WARNING: Location' || true; }
	@cd build/smoke && bash ../../tests/e2e/smoke_wheel.sh venv/bin

clean:
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
