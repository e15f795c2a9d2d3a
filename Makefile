# make run: install, start the service on this machine, caption a sample.
# make test: what a change has to pass before a commit.  make test-all: that and all others, except slow ones and a GPU's.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)

.PHONY: install run test test-all test-slow test-cluster check clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Give another: make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing (Debian: apt-get install python3-venv)."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: install
	@CAPTION_SERVE_VERBOSE=$(if $(filter-out 0,$(VERBOSE)),1,0) $(BIN)/caption-serve serve --sample lab/held_out/0026.jpg \
	  $(if $(MODEL),--model $(MODEL)) $(if $(MATCHER),--matcher $(MATCHER)) $(if $(ANSWERER),--answerer $(ANSWERER)) \
	  $(if $(PORT),--port $(PORT))

test: install
	$(BIN)/pytest -m "(unit or engine or serve) and not extended and not slow"

test-all: test
	$(BIN)/pytest -m "(cluster or extended) and not gpu and not slow"

test-slow: install
	$(BIN)/pytest -m slow

test-cluster: install
	$(BIN)/pytest -m cluster

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV)
