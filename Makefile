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

# What pytest is to run; all of it: make test SELECT=
SELECT ?= -m "not slow"
test: $(VENV)/.test $(VENV)/.kernels
	$(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder $(SELECT)

slow:
	$(MAKE) test SELECT="-m slow --durations=25"

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

# The matcher's kernels, compiled once: else each of the tests' processes would.
$(VENV)/.kernels: $(wildcard validators/kernels/*.py) | $(VENV)/.test
	$(BIN)/python -c "import heliodor.validators.kernels.batch"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
