# Everything runs in .venv, which each target creates or renews by itself; `make help` lists the targets.
# Overridable: make PYTHON=python3.12 test    make align PROJECT=my-project    make test PYTEST="-k losses"
#              make test PYTEST="-n 0 -s" (one process, which may print)
#              make bench BENCH="--sizes S --runs 5"    make bench BENCHMARKS="sft ppo" BENCH="--sizes S"

PYTHON ?= python3
PROJECT ?=
PYTEST ?=
BENCH ?=
GPU ?=
EXTRAS := train,eval,benchmarks,prompts,postgres,lora,gguf,tensorboard,dev
BENCHMARKS ?= sft reward generation ppo growth
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help align test long check lint types layers bench gpu docs screenshots clean

help: ## Show this list
	@echo "Heedful: make TARGET"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12

align: $(READY) ## Align the built-in miniature, or PROJECT=folder: the whole loop, ends with report.html
	$(BIN)/heedful align $(PROJECT)

# A process for each core (each needs a gigabyte), a file's tests in one process: they share what takes long to make.
# In the files' order, which begins with the long ones; otherwise xdist begins with the files with most tests.
# With compiled Python kept: the tests start hundreds of processes, and each would compile Heedful again.
test: $(READY) ## Run the tests but the long ones, on all cores; lists what was skipped and why
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder -rs --durations=10 $(PYTEST)

long: $(READY) ## Run the tests that take minutes: load on the labeling server, a million prompts, a lost network
	$(BIN)/python -m pytest -rs -s -m long $(PYTEST)

check: lint types layers ## Lint, format, types and import layers (make -k check: all of them, whatever fails)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/pyright

layers: $(READY)
	$(BIN)/lint-imports --no-logo

bench: $(READY) ## Run the benchmarks against TRL and transformers (hours), or BENCH=--quick (minutes)
	$(BIN)/python bench/_setup.py
	@set -e; for name in $(BENCHMARKS); do echo "== bench/$$name.py $(BENCH)"; $(BIN)/python bench/$$name.py $(BENCH); done

gpu: $(READY) ## On a machine with a GPU: its tests, and every loop measured, in under ten minutes (GPU=--tiny: on a CPU, small)
	$(BIN)/python bench/gpu.py $(GPU)

docs: $(READY) ## Build the documentation into docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

screenshots: $(READY) ## Take the documentation's pictures of the labeling application again (needs Chromium)
	$(BIN)/python docs/_screenshots.py

clean: ## Remove caches and built files; .venv, runs and projects stay
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache docs/_build build dist
	find src tests bench docs -name __pycache__ -type d -prune -exec rm -rf {} +

# Made again when the dependencies change. torch comes first, by itself and pinned, so that no other package chooses one.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "heedful: '$(PYTHON)' was not found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "heedful: needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Name a newer one: make PYTHON=python3.12"; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv || { \
	  echo "heedful: could not make .venv: see the message above."; \
	  echo "If Python's own venv or ensurepip is missing (Debian, Ubuntu): apt install python3-venv"; exit 2; }
	@echo "heedful: installing into .venv, a few minutes the first time"
	$(BIN)/python -m pip install -qq --constraint constraints.txt torch
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@
