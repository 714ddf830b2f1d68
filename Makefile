# Two commands for people:  make campaign   and   make test.  Each sets up what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# One thread a process: more are slower for small crystals, and processes run side by side.
export OMP_NUM_THREADS ?= 1

.PHONY: campaign test slow lint bench clean

campaign: $(VENV)/.campaign
	$(BIN)/heliodor run examples/quickstart.yaml --out runs/quickstart

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadgroup

slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow -n 2 --dist loadgroup --durations=25

lint: $(VENV)/.test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/lint-imports
	mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/heliodor
	cd $(VENV)/src && MYPYPATH=. ../bin/mypy --config-file ../../pyproject.toml -p heliodor

bench: $(VENV)/.test
	$(BIN)/python benchmarks/run.py

$(VENV)/.campaign: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e ".[flows,diffusion,chgnet,vasp]"
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e ".[all,dev]"
	touch $@ $(VENV)/.campaign

clean:
	rm -rf $(VENV) build *.egg-info
