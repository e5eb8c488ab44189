# The commands a person types. Every target can be run again at any time; what is up to date costs nothing.
#
#   make demo       install, then answer a handful of utterances on this device
#   make test       the tests that need neither root nor torch (minutes)
#   make test-all   the heavy tests: parity with transformers, environments of their own, minutes of work
#   make lint       ruff and mypy
#   make bench      speed of the shipped model on this machine
#   make docs       regenerate what is generated from the code
#   make clean      remove the environments and caches
#
# PYTHON picks the interpreter (3.10 to 3.13):      make test PYTHON=python3.12
# TORCH picks the build for test-all (TORCH=torch==2.12.0 names another release). Where the index has no build for
# the CPU alone (PyPI, on x86-64 Linux), pip takes the one with several GB of CUDA libraries; PIP_EXTRA_INDEX_URL
# set to PyTorch's own index for the CPU gets the small one.

PYTHON ?= python3
TORCH ?= torch==2.13.0
PYTEST_ARGS ?= -rs

VENV := .venv
VENV_ALL := .venv-all
BIN := $(VENV)/bin
BIN_ALL := $(VENV_ALL)/bin
VENV_OPTIMUM := .venv-optimum
BIN_OPTIMUM := $(VENV_OPTIMUM)/bin
PIP := -m pip install --quiet --disable-pip-version-check

export ORT_DISABLE_TELEMETRY := 1

.DELETE_ON_ERROR:
.PHONY: demo test test-all lint bench docs clean python-version

demo: $(VENV)/.installed
	$(BIN)/python -m tools.demo

test: $(VENV)/.test-extra
	$(BIN)/python -m pytest -m "not heavy" $(PYTEST_ARGS)

test-all: $(VENV_ALL)/.installed $(VENV_OPTIMUM)/.installed
	EDGE_TEST_OPTIMUM_PYTHON="$(CURDIR)/$(BIN_OPTIMUM)/python" $(BIN_ALL)/python -m pytest -m heavy $(PYTEST_ARGS)

lint: $(VENV)/.lint-extra
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/edge-runtime bench

docs: $(VENV)/.test-extra
	$(BIN)/python -m tools.render_docs
	$(BIN)/python -m tools.registry

clean:
	rm -rf $(VENV) $(VENV_ALL) $(VENV_OPTIMUM) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The environments. A stamp is older than pyproject.toml when the dependencies or verbs may have changed.
$(VENV)/.installed: pyproject.toml | python-version
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) --editable .
	touch $@

$(VENV)/.test-extra: $(VENV)/.installed
	$(BIN)/python $(PIP) --editable '.[test]'
	touch $@

$(VENV)/.lint-extra: $(VENV)/.test-extra
	$(BIN)/python $(PIP) --editable '.[test,lint]'
	touch $@

$(VENV_ALL)/.installed: pyproject.toml | python-version
	test -x $(BIN_ALL)/python || $(PYTHON) -m venv $(VENV_ALL)
	$(BIN_ALL)/python $(PIP) '$(TORCH)'
	$(BIN_ALL)/python $(PIP) --editable '.[test,lint,parity,hub,plot]'
	touch $@

# optimum wants an older transformers than the parity tests do, so it lives apart.
$(VENV_OPTIMUM)/.installed: pyproject.toml | python-version
	test -x $(BIN_OPTIMUM)/python || $(PYTHON) -m venv $(VENV_OPTIMUM)
	$(BIN_OPTIMUM)/python $(PIP) '$(TORCH)'
	$(BIN_OPTIMUM)/python $(PIP) --editable '.[optimum]'
	touch $@

python-version:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v < (3, 14) or sys.exit("edge-runtime needs Python 3.10 to 3.13; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % v)'
