# make demo   compiles the demonstration models and compares them with PyTorch
# make check  checks format, lint and types, and runs the quick tests: two minutes
# make test   runs the tests that need no second machine
# make arm    runs the tests of ARM artefacts in an emulator, setting one up where there is none
# make cuda   runs all tests of CUDA source, on an emulated GPU
# make lint   checks format, lint and types
# make pins   writes tests/pins.txt, hashes of each kernel's code, and docs/img/imports.svg anew
# make docs   builds the documentation into site/
# make clean  removes what the above made
#
# Each creates .venv and installs what it needs on its first run. Another interpreter, folder or
# build of torch: make demo PYTHON=python3.12 VENV=/tmp/venv TORCH=torch==2.13.0

PYTHON ?= python3
VENV   ?= .venv
# Plain "torch" on Linux is the newest CUDA build; this is the release the project is tested with.
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo check test arm arm-machine cuda lint pins docs clean

demo: $(VENV)/.demo-installed
	$(BIN)/tvmlayers demo $(ARGS)

test: $(VENV)/.dev-installed
	$(PYTEST) -m "not arm and not gpu_kernels" $(ARGS)

check: lint
	$(PYTEST) -m quick $(ARGS)

arm: arm-machine
	$(PYTEST) -m arm $(ARGS)

cuda: $(VENV)/.dev-installed
	$(PYTEST) tests/cuda_source $(ARGS)

# QEMU and a small arm64 Debian in .arm/, by apt-get and pip, without root and without installing.
arm-machine: $(VENV)/.dev-installed
	$(BIN)/python tests/arm/machine.py

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

pins: $(VENV)/.dev-installed
	$(BIN)/python -m tests.pins --update
	$(BIN)/python -m tests.import_picture

docs: $(VENV)/.docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf site $(VENV) .arm build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.%-installed: pyproject.toml | $(BIN)/pip
	@echo "installing tvmlayers[$*] and $(TORCH) into $(VENV): a minute or two"
	@$(BIN)/python -m pip install --quiet --editable ".[$*]" "$(TORCH)"
	@touch $@

# Debian ships venv in a package of its own: say so before a half-made folder is left behind.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
		{ echo "tvmlayers needs Python 3.10 to 3.13, got $$($(PYTHON) --version 2>&1);" \
		       "name another one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "$(PYTHON) cannot make virtual environments;" \
		       "on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
