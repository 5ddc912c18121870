# `make run` and `make test` are all that a new user needs.
PYTHON ?= python3
VENV := .venv
# Of the tests, side by side.
WORKERS ?= 2
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
# DVC asks for the user's name and home, which a container may not know.
export LOGNAME ?= $(shell id -un 2> /dev/null)
export HOME ?= $(CURDIR)/.semmae

.PHONY: run test test-all test-ci lint audit bench gpu chaos decision clean

run: $(VENV)/ready
	semmae check
	dvc repro
	semmae summary

# What a contributor runs before a commit: one case of every kind of promise.
test: $(VENV)/ready
	ruff check .
	pytest -n $(WORKERS) -m 'not slow'

# Everything; the former is part of it.
test-all: $(VENV)/ready lint
	pytest -n $(WORKERS)

# The same as CI runs it: servers, their pages and a browser share two cores with the other tests, so what fails beside them is
# tried once more alone. Both outcomes are printed; a run that was cut short (exit codes above 1) is not tried again.
test-ci: $(VENV)/ready lint
	rm -rf .pytest_cache
	pytest -n $(WORKERS) || { test $$? -eq 1 && pytest --last-failed --last-failed-no-failures none; }

# Style, format and types.
lint: $(VENV)/ready
	ruff check .
	ruff format --check .
	mypy

# Check the installed packages against their requirements and constraints.txt, and look up known advisories about them; where no
# service of advisories answers, a line says so. AUDIT="--ignore-vuln ID" passes one that does no harm here.
audit: $(VENV)/ready
	pip check --disable-pip-version-check
	python .ci/audit.py $(AUDIT)

# Measure speed and memory on this machine; prints tables and writes no files.
bench: $(VENV)/ready
	pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,bench]'
	@for name in input pretraining_step; do python -m benchmarks.$$name || exit 1; echo; done

# What a CUDA device makes of this: correctness and speed in a few minutes, as a table and JSON.
gpu: $(VENV)/ready
	python -m benchmarks.gpu

# When do parts help? The experiment of docs/decision.md: some hours, and it goes on where it was stopped.
decision: $(VENV)/ready
	semmae preset decision
	semmae run
	python -m benchmarks.contrasts --confidence 0.975 oracle:oracle_shuffled oracle:mae semmae_bg_random:mae

# Every fault on every artefact, and the table of it; then kill every training stage at twenty moments, and thirty runs of the whole walk
# at one, and compare the bits of what they make when run again.
chaos: $(VENV)/ready
	pytest tests/chaos --chaos 20 --table .semmae/chaos.md
	pytest tests/test_resume.py --kills 20
	pytest tests/servers/test_kills.py --walks 30 -s

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python >= 3.11 is needed, this is " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@
