PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# The modules that hold the contracts between the parts are type-checked strictly.
CONTRACT := pipelines/slots.py pipelines/embodiments.py pipelines/episode.py pipelines/errors.py \
            pipelines/statistics.py pipelines/tfrecord.py pipelines/index.py

.PHONY: demo test lint bench clean

demo: .venv
	$(BIN)/embodimix demo

test: lint
	$(BIN)/python -m pytest

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/mypy $(CONTRACT)

bench: .venv
	$(BIN)/python -m benchmarks

.venv: .venv/.ready

.venv/.ready: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "embodimix needs Python 3.11; found " + sys.version.split()[0] + ". Run: make PYTHON=/path/to/python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch .venv/.ready

clean:
	rm -rf .venv runs build dist *.egg-info
