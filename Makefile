# From a fresh clone, with nothing but make and Python 3.10 or newer:  make demo,  make test.
# PYTHON names another interpreter than the python3 on the PATH:  make install PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help install demo test test-all lint docs wheel clean

help:
	@echo "make install   .venv with pairclean and everything to run, test and lint it"
	@echo "make demo      draw a small data set, plant mismatches in it, clean it, compare"
	@echo "make test      the tests, without the slow ones"
	@echo "make test-all  all tests"
	@echo "make lint      ruff and mypy"
	@echo "make docs      the documentation site, in site/"
	@echo "make wheel     dist/*.whl and dist/*.tar.gz"
	@echo "make clean     remove everything that these made, except .venv"

install: $(STAMP)

# Written last, so that an interrupted installation is repeated.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
		echo "pairclean needs Python 3.10 or newer, and '$(PYTHON)' is" \
			"$$(command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 || echo missing): try make install PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments: install its venv package" \
			"(Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e '.[test,lint,docs,review,formats,paper,ray]'
	@touch $@

demo: install
	$(BIN)/pairclean demo demo

# One process per core with one thread each: more threads than cores slow each other down. A file's tests stay in one
# process, which makes the runs that they share once; the order is kept, as the files with the fewest tests, which would
# come last, are not the quickest.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST) -m "not slow"

test-all: install
	$(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Strict: a broken link, a missing page or a name that does not exist fails the build.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

wheel: install
	$(BIN)/python -m build

clean:
	rm -rf build dist demo site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find pairclean cli tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
