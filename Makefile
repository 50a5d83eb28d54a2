# Every target makes what it needs: a plain clone, Python 3.11 to 3.13 and make are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-fast parity lint format docs clean

demo: $(READY)  ## train on real digits, export, serve, and check every answer
	$(BIN)/keras-vit demo

test: $(READY)  ## the whole test suite
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 20

test-fast: $(READY)  ## without the tests that take long
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not parity"

parity: $(READY)  ## compare with timm and transformers themselves, every name; installs them
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[parity]'
	$(BIN)/pytest -n 2 -m parity

lint: $(READY)  ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(READY)  ## mend what can be mended by machine
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## the site, in build/site
	$(BIN)/sphinx-build -W -n -q -b html docs build/site
	@echo build/site/index.html

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "keras-vit needs Python 3.11 to 3.13: make PYTHON=python3.11 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info
