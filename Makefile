# make demo: train, evaluate and show the embedded example.   make test: the whole suite.   Both build .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs dist clean

# Huge pages: XLA's CPU backend takes and returns hundreds of megabytes every step (a fifth of its time otherwise).
demo: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1
demo: $(VENV)/.train
	$(BIN)/ega-jax train configs/glyphs.py --run-dir runs/demo
	$(BIN)/ega-jax eval runs/demo
	@echo "Open runs/demo/report.html"

test: $(VENV)/.test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site lies in site/ and loads nothing from elsewhere: python -m http.server --directory site
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	$(BIN)/python tests/check_site.py site

# What a release uploads: dist/ega_jax-VERSION.tar.gz, and the wheel that is built from it.
dist: $(VENV)/.dist
	rm -rf dist build
	$(BIN)/python -m build

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train]'
	@touch $@

$(VENV)/.test: $(VENV)/.train
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

$(VENV)/.dist: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dist]'
	@touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info
