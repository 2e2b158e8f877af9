# The first that starts and is new enough: a shim of a version manager may be there and lead nowhere.
IS_SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do $$name -c '$(IS_SUPPORTED)' 2>/dev/null && echo $$name && exit; done; echo python3)
BIN := .venv/bin

.PHONY: demo docs docs-version test test-flink fuzz lint bench clean

demo: .venv
	$(BIN)/embodimix demo

# The site, in build/site; strict, so that a broken link or a page outside of the menu ends it.
docs: .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	PYTHONPATH=$(CURDIR) $(BIN)/python -m mkdocs build --strict

# The same site as one of several versions, committed to the local branch gh-pages, which a web server can serve as it is.
VERSION ?= $(shell sed -n 's/^version = //p' setup.cfg)
docs-version: .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@# mike looks for mkdocs on the PATH.
	PATH=$(CURDIR)/$(BIN):$$PATH PYTHONPATH=$(CURDIR) mike deploy -F mkdocs.versions.yml --update-aliases $(VERSION) latest
	PATH=$(CURDIR)/$(BIN):$$PATH mike set-default -F mkdocs.versions.yml latest

# A process a core; each file's tests stay together, since they share what is dear to make.
test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile --ignore tests/trainers/simulators
	@# By themselves: Mesa's renderer crashes a process that has loaded TensorFlow, since both bring an LLVM.
	$(BIN)/python -m pytest -n auto --dist loadfile tests/trainers/simulators

# The same job on an external pool of workers and, where Maven finds Beam's job server, on a real Flink cluster.
test-flink: .venv
	$(BIN)/python tests/support/servers/flink_setup.py .cache/flink
	EMBODIMIX_FLINK=$(CURDIR)/.cache/flink $(BIN)/python -m pytest -m cluster tests/pipelines/conversion/test_cluster.py tests/pipelines/conversion/test_faults.py -rs

# Damaged and hostile inputs of every format, fifty times as many as the tests try. `python -m benchmarks.chaos` counts
# what comes of kills, damages, unusual and hostile inputs.
fuzz: .venv
	EMBODIMIX_FUZZ_TIMES=50 $(BIN)/python -m pytest -n auto tests/pipelines/sources/test_fuzz.py tests/pipelines/sources/test_fuzz_trees.py

# The rules of accessibility that pages are tested with; MPL-2.0, so it stays out of this repository. npm checks its hash.
.cache/axe/axe.min.js:
	mkdir -p .cache/axe
	cd .cache/axe && npm pack --silent axe-core@4.14.1 && tar -xzf axe-core-4.14.1.tgz --strip-components=1 package/axe.min.js
	touch $@

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# The trainer is measured on the mixture of a quick demo.
bench: runs/bench/pretrain.yaml
	$(BIN)/python -m benchmarks.conversion
	$(BIN)/python -m benchmarks.store_input
	$(BIN)/python -m benchmarks.stream
	$(BIN)/python -m benchmarks.mixture_size
	$(BIN)/python -m benchmarks.store
	$(BIN)/python -m benchmarks.model tiny
	$(BIN)/python -m benchmarks.train runs/bench/pretrain.yaml
	$(BIN)/python -m benchmarks.scale

runs/bench/pretrain.yaml: .venv
	$(BIN)/embodimix demo --quick --out runs/bench

.venv: .venv/.ready

.venv/.ready: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c '$(IS_SUPPORTED)' || { echo "embodimix needs Python 3.11, 3.12 or 3.13; found $$($(PYTHON) --version 2>&1). Run: make PYTHON=/path/to/python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@# Not by pip, which unpacks one wheel after another and compiles modules that nobody imports. uv does not read
	@# pip's configuration; who has set an index for pip means uv, too.
	@# Tests talk to the policy server with openpi-client. It asks for numpy 1 but runs with numpy 2; what it needs is
	@# in '.[dev]'.
	index=$${PIP_INDEX_URL:-$$($(BIN)/python -m pip config get global.index-url 2>/dev/null || true)}; \
	if [ -n "$$index" ] && [ -z "$$UV_DEFAULT_INDEX" ]; then export UV_DEFAULT_INDEX="$$index"; fi; \
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]' && \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -c constraints.txt openpi-client
	touch .venv/.ready

clean:
	rm -rf .venv runs build dist *.egg-info
