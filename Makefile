# `make run` and `make test` are all that a new user needs.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1

.PHONY: run test lint audit bench chaos deps clean

run: $(VENV)/ready
	semmae check
	dvc repro
	semmae summary

test: $(VENV)/ready
	ruff check .
	pytest

# Style, format and types.
lint: $(VENV)/ready
	ruff check .
	ruff format --check .
	mypy

# Check that what is installed is what constraints.txt pins, and look up known advisories about it; fails where it cannot.
audit: $(VENV)/ready
	python .ci/audit.py $(AUDIT)

# Measure on this machine what the requirements bound; prints tables and writes nothing.
bench: $(VENV)/ready
	pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,bench]'
	@for name in masking input pretraining_step processes extraction cache_memory spreading; do python -m benchmarks.$$name || exit 1; echo; done

# Every fault on every artefact, and the table of it; then kill every training stage at twenty moments, and thirty runs of the whole walk
# at one, and compare the bits of what they make when run again.
chaos: $(VENV)/ready
	pytest tests/chaos --chaos 20 --table .semmae/chaos.md
	pytest tests/test_resume.py --kills 20
	pytest tests/servers/test_kills.py --walks 30 -s

# Rewrite the code dependencies in dvc.yaml from the imports.
deps: $(VENV)/ready
	python -m jobs.code

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python >= 3.11 is needed, this is " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@
