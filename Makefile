# perfmodel: `make demo` shows the main job, `make test` runs every test; both do their own set-up.
SHELL := /bin/bash
PYTHON ?= python3
TORCH ?= torch==2.13.0
CONSTRAINTS ?= constraints.txt
VENV := .venv
ORACLE := .venv-oracle
MINUTES ?= 5
SEED ?= 0
SHIPPED := h100-sxm h200-sxm b200-sxm gb200-nvl72 h800-sxm b300-sxm gb300-nvl72 a100-sxm l40s rtx-pro-6000
DERIVED := h20-sxm h20-141g-sxm a800-sxm mi325x
AMD := mi300x mi355x
AITER ?= build/aiter/aiter/configs
TABLES := aiconfigurator-core==0.12.0 aisimulate==0.13.0.dev202610270000000085
BIN := $(VENV)/bin
KEY = $(shell cat pyproject.toml Makefile $(CONSTRAINTS) | sha256sum | cut -c1-16)
INSTALL = install -q --disable-pip-version-check -c $(CONSTRAINTS)
ALONE = $(shell grep -l 'mark\.alone' tests/test_*.py)
FREEZE = freeze --all --exclude-editable | sed 's/+[^ ]*$$//'

# Bytecode is kept, whatever the environment says: else every command that a test starts compiles 140 of our modules anew.
export PYTHONDONTWRITEBYTECODE =

.DEFAULT_GOAL := help
.PHONY: help demo dash test check fmt bench bench-theory bench-kinds bench-memory bench-peers hostile calibrate import-tables import-amd calibration-report engine-constants routing-skew keys model-rows pictures trust overlap-experiment dev-env oracle-env constraints clean

help: ## what each target does
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-19s %s\n", $$1, $$2}'

demo: $(VENV)/.run-$(KEY) ## LongCat-Flash decoding on 128 H800, and an HTML timeline of it
	$(BIN)/perfmodel step longcat-flash-h800 --html longcat-flash-h800.html
	@echo "Timeline: open longcat-flash-h800.html in a browser"

dash: $(VENV)/.dash-$(KEY) ## the what-if dashboard in a browser, on this machine only
	$(BIN)/perfmodel dashboard

test: $(VENV)/.dev-$(KEY) oracle-env ## set up and run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not alone' $(PYTEST_ARGS)
	$(BIN)/python -m pytest -p no:xdist -m alone $(ALONE) $(PYTEST_ARGS)

check: $(VENV)/.dev-$(KEY) ## format, lint, types, import directions
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

fmt: $(VENV)/.dev-$(KEY) ## format the code
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench-theory: $(VENV)/.dev-$(KEY) ## the serving simulator against queueing theory, a million customers per case (5 minutes)
	$(BIN)/python -m bench.theory

bench: $(VENV)/.dev-$(KEY) ## time what design budgets promise
	$(BIN)/python -m pytest bench --benchmark-only -p no:xdist --override-ini addopts= -q

hostile: $(VENV)/.dev-$(KEY) ## break inputs at random for at most 20 minutes (SEED=0) and count what happens
	$(BIN)/python -m bench.hostile --seed $(SEED)

bench-kinds: $(VENV)/.dev-$(KEY) ## requests/s by kinds of traffic, compiled and plain, beside a yardstick (2 minutes)
	$(BIN)/python -m bench.kinds

bench-memory: $(VENV)/.dev-$(KEY) ## peak memory and CPU time of serve on traces of 0.1, 1 and 10 million requests (15 minutes)
	$(BIN)/python -m bench.memory

bench-peers: $(VENV)/.dev-$(KEY) ## the same hour through NVIDIA's replay, in an environment of its own, where its wheel can be had
	test -x build/peers/bin/python || $(PYTHON) -m venv build/peers
	build/peers/bin/python -m pip install -q --disable-pip-version-check ai-dynamo-runtime==1.6.1
	$(BIN)/python -m bench.peers build/peers/bin/python

calibrate: $(VENV)/.dev-$(KEY) ## refit the shipped kernel and communication tables from the measured rows
	$(BIN)/python -m calibrate.tables.achievable

import-tables: $(VENV)/.dev-$(KEY) ## remake the shipped GPU calibrations from public measured tables (200 MB of packages)
	$(BIN)/python -m pip download -q --no-deps --pre --only-binary=:all: -d build/tables $(TABLES)
	$(BIN)/calibrate import-tables $(foreach wheel,aiconfigurator_core aisimulate,--tables $$(ls build/tables/$(wheel)-*.whl)) \
		--out perfmodel/data/calibrations $(foreach gpu,$(SHIPPED),--system $(gpu))
	$(BIN)/calibrate import-tables --out perfmodel/data/calibrations $(foreach gpu,$(DERIVED),--system $(gpu))

import-amd: $(VENV)/.dev-$(KEY) ## remake AMD's calibrations from aiter's tuning files (AITER=folder aiter/configs of a copy)
	$(BIN)/python -m calibrate.public.amd $(AITER)
	$(BIN)/calibrate import-tables --tables $(AITER) --out perfmodel/data/calibrations $(foreach gpu,$(AMD),--system $(gpu))
	$(BIN)/calibrate import-tables --out perfmodel/data/calibrations --system mi325x

calibration-report: $(VENV)/.dev-$(KEY) ## time this machine's kernels, fit, and measure how far predictions are off (10 minutes)
	$(BIN)/calibrate profile --out build/calibration --model small --model medium --max-tokens 512 --max-context 2048 \
		--ranks 2 --minutes $(MINUTES)
	$(BIN)/calibrate fit build/calibration
	$(BIN)/calibrate check build/calibration

engine-constants: $(VENV)/.dev-$(KEY) ## refit the routing skew and the serving engines' constants on published rows of role fit
	for round in 1 2; do $(BIN)/python -m calibrate.engines && $(BIN)/python -m calibrate.engines.skew || exit 1; done

routing-skew: $(VENV)/.dev-$(KEY) ## EPLB's gain in prefill and decode by how skewed routing is
	$(BIN)/python -m calibrate.engines.skew --curve

keys: $(VENV)/.dev-$(KEY) ## write the tables of keys into docs/scenarios.md
	$(BIN)/python docs/keys_table.py

model-rows: $(VENV)/.dev-$(KEY) ## count the rows of `perfmodel show models` anew, after a change of models or families
	$(BIN)/python -m perfmodel.output.catalogue.kept

pictures: $(VENV)/.dev-$(KEY) ## redraw the pictures of docs/, screenshots of dashboard and report included (needs chromium)
	$(BIN)/python docs/pictures.py
	$(BIN)/python docs/screenshots.py

trust: $(VENV)/.dev-$(KEY) ## run every validation suite and write its tables into docs/trust.md
	$(BIN)/python -m calibrate.trust

overlap-experiment: $(VENV)/.dev-$(KEY) ## two ranks over a slowed link: measured overlap against predicted (needs root)
	$(BIN)/python -m calibrate.overlap --out build/overlap

dev-env: $(VENV)/.dev-$(KEY)

oracle-env: $(ORACLE)/.done-$(KEY)

# The newest that the development environment takes, then the newest that the oracles' takes beside it. A local build
# (torch's +cpu) is cut off: its public version stands for all builds. torch stays at TORCH: the newest one may have no
# local build, and would bring 3 GB of CUDA along.
constraints: ## make both environments anew from the newest releases and note in constraints.txt what they hold
	rm -rf $(VENV) $(ORACLE)
	$(MAKE) dev-env CONSTRAINTS=/dev/null
	set -o pipefail; $(BIN)/python -m pip $(FREEZE) > $(VENV)/held.txt
	$(MAKE) oracle-env CONSTRAINTS=$(VENV)/held.txt
	set -o pipefail; $(ORACLE)/bin/python -m pip $(FREEZE) >> $(VENV)/held.txt
	(sed '/^#/!d' constraints.txt; LC_ALL=C sort -fu $(VENV)/held.txt) > $(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt

clean: ## remove environments and caches
	rm -rf $(VENV) $(ORACLE) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.run-$(KEY):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip $(INSTALL) -e .
	$(BIN)/python -m compileall -q perfmodel calibrate reference_model dashboard
	$(BIN)/python -m perfmodel.serving.compiled
	touch $@

$(VENV)/.dash-$(KEY): $(VENV)/.run-$(KEY)
	$(BIN)/python -m pip $(INSTALL) -e '.[dashboard]'
	touch $@

$(VENV)/.dev-$(KEY): $(VENV)/.run-$(KEY)
	$(BIN)/python -m pip $(INSTALL) --upgrade 'pip>=25.1'
	$(BIN)/python -m pip $(INSTALL) $(TORCH)
	$(BIN)/python -m pip $(INSTALL) --group dev
	touch $@

# torch first and alone, so that pip takes a local CPU build where there is one. Independent programs used as oracles.
# `make TORCH=torch==X CONSTRAINTS=/dev/null ...` takes another one, and the newest of all else.
$(ORACLE)/.done-$(KEY):
	test -x $(ORACLE)/bin/python || $(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/python -m pip $(INSTALL) --upgrade 'pip>=25.1'
	$(ORACLE)/bin/python -m pip $(INSTALL) $(TORCH)
	$(ORACLE)/bin/python -m pip $(INSTALL) --group oracle
	touch $@
