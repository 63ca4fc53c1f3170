# make demo: the whole journey on this computer, no network but the package index.   make test: the tests.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all check licenses wheel docs setup format clean

demo: .venv/.demo
	$(BIN)/ibidem demo

# The tests of a file share what is made for it, so one worker runs them all; tests/conftest.py says which files come first.
TEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: setup
	$(TEST)

test-all: setup
	$(TEST) -m "not gpu"

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

licenses: setup
	$(BIN)/python scripts/check_licenses.py

wheel:
	scripts/check_wheel.sh

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# The site, in site/. The generated pages are written first; read it with: python -m http.server --directory site
docs: .venv/.docs
	$(BIN)/python scripts/docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

setup: .venv/.ready

# What the demo needs, and nothing more.
.venv/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip==26.1
	$(INSTALL) -e ".[demo]"
	touch $@

# What developers need too.
.venv/.ready: .venv/.demo
	$(INSTALL) -e ".[demo,dev,evaluation,gguf,huggingface,lora,ray,tensorboard]"
	touch $@

.venv/.docs: .venv/.ready
	$(INSTALL) -e ".[docs]"
	touch $@

clean:
	rm -rf .venv artifacts site
