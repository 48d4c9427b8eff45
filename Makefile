# From a fresh clone: `make demo` or `make test`. Both make .venv first; nothing outside this folder is touched.
#
#   make demo PYTHON=python3.12 PIP_ARGS="--extra-index-url URL"
#
# On Linux pip's own index has torch with CUDA's libraries (about 3 GB to fetch). The CPU build is a tenth of that: put the URL that
# the install page of pytorch.org shows for "CPU" into PIP_ARGS as above.

PYTHON ?= python3
PIP ?= $(BIN)/python -m pip
PIP_ARGS ?=
PYTEST_ARGS ?=
# 0 runs everything in this process, for a debugger. Tests with a broker wait more than they work: three processes share two
# cores, and four those of the slow ones, which wait for brokers to be away and for sleepers. Unit tests only work.
TEST_PROCESSES ?= 3
# Tests of one file stay in one process, and files come in the order that conftest.py gives: the longest first.
PYTEST_SPREAD := --dist loadfile --no-loadscope-reorder
DEMO_ARGS ?=
SCREENSHOTS_ARGS ?=
BENCH_ARGS ?=
FAULTS_ARGS ?=
SIMULATE_ARGS ?=
MUTANTS_ARGS ?=
DOCS ?= build
LAYERCACHE_DATA ?= ../shared/data

VENV := .venv
BIN := $(VENV)/bin
# Several processes share the machine: threads of torch that wait for each other cost more than they bring.
export OMP_NUM_THREADS ?= 1
# Where it is set, as in Python's own images, every process of the tests compiles the project anew, and pytest its assertions.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo unit test slow exhaustive faults simulate mutants fuzz lint types check format bench-paper bench-pipeline bench-scaling soak screenshots docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    the demo: broker, worker, trainer and publisher here, about three minutes; leaves demo-report/"
	@echo "make unit    unit tests: no broker, no other process and no browser; a minute"
	@echo "make test    unit and integration tests, five minutes on two cores; no Docker and no service needed"
	@echo "make slow    the tests that make test leaves out: the largest models and, with KAFKA_HOME, a short run of make faults"
	@echo "make exhaustive  the slow tests that repeat others on larger models or more streams, 15 minutes"
	@echo "make fuzz    damaged input to everything that reads bytes; FUZZ_ARGS=\"--minutes 10\"; writes docs/security.md"
	@echo "make faults  kills, stops, holds and cuts everything under load, 80 minutes; KAFKA_HOME; FAULTS_ARGS=--resume goes on; writes docs/reliability.md"
	@echo "make simulate  a million interleavings of workers, network and broker, 75 minutes on two cores; SIMULATE_ARGS=\"--seed 5\""
	@echo "make mutants  breaks the code in one place after another and wants a test to notice each; MUTANTS_ARGS=\"--only store\""
	@echo "make lint    ruff"
	@echo "make types   mypy --strict"
	@echo "make check   lint, types and all tests"
	@echo "make format  lets ruff rewrite what it can"
	@echo "make bench-paper    tables and plots of the paper's tasks, its method, ours and plain runtimes; BENCH_ARGS=--quick: an hour"
	@echo "make bench-pipeline beside Faust, Quix Streams and bytewax, with KAFKA_HOME; BENCH_ARGS=--quick: six minutes"
	@echo "make bench-scaling  1, 2 and 4 workers on as many partitions, with KAFKA_HOME"
	@echo "make soak    15 minutes of more than a worker can take: is memory flat? KAFKA_HOME; BENCH_ARGS=\"--minutes 2\""
	@echo "make docs    the documentation's site, into site/; make docs DOCS=serve shows it at localhost:8000 and follows changes"
	@echo "make screenshots  the dashboard's pictures in docs/images, from a demo that runs, five minutes; needs Chromium"
	@echo "make clean   removes .venv and everything made here"

demo: $(VENV)/.demo
	$(BIN)/layercache demo $(DEMO_ARGS)

unit: TEST_PROCESSES := 2
slow: TEST_PROCESSES := 4

unit: $(VENV)/.dev
	$(BIN)/python -m pytest -m unit -n $(TEST_PROCESSES) $(PYTEST_SPREAD) $(PYTEST_ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -m "not slow and not faults" -n $(TEST_PROCESSES) $(PYTEST_SPREAD) $(PYTEST_ARGS)

slow: $(VENV)/.dev
	$(BIN)/python -m pytest -m "slow and not faults and not exhaustive" -n $(TEST_PROCESSES) $(PYTEST_SPREAD) $(PYTEST_ARGS)
	@# After the others and in two processes: these count on the time that things take, and mostly wait. 5 is pytest's "no
	@# tests", where PYTEST_ARGS names others.
	$(BIN)/python -m pytest -m faults -n 2 $(PYTEST_SPREAD) $(PYTEST_ARGS) || [ $$? = 5 ]

exhaustive: $(VENV)/.dev
	$(BIN)/python -m pytest -m exhaustive -n $(TEST_PROCESSES) $(PYTEST_ARGS)

fuzz: $(VENV)/.dev
	-$(PIP) install -q $(PIP_ARGS) -e '.[fuzz]' # without it, inputs do not follow the code's branches
	$(BIN)/python -m tests.fuzz --write $(FUZZ_ARGS)

faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults.harness $(FAULTS_ARGS)

simulate: $(VENV)/.dev
	$(BIN)/python -m tests.simulation --interleavings 1000000 --processes 2 --write $(SIMULATE_ARGS)

mutants: $(VENV)/.dev
	$(BIN)/python -m tests.mutants $(MUTANTS_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy --strict

check: lint types test slow

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-paper: $(VENV)/.dev
	$(BIN)/python -m benchmarks.paper --data $(LAYERCACHE_DATA) $(BENCH_ARGS)

bench-pipeline: $(VENV)/.dev
	$(BIN)/python -m benchmarks.pipeline $(BENCH_ARGS)

bench-scaling: $(VENV)/.dev
	$(BIN)/python -m benchmarks.scaling $(BENCH_ARGS)

soak: $(VENV)/.dev
	$(BIN)/python -m benchmarks.soak $(BENCH_ARGS)

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(DOCS)

screenshots: $(VENV)/.dev
	$(BIN)/python -m docs.make_screenshots $(SCREENSHOTS_ARGS)

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demo-report .demo .peers .faults
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment; a stamp for each set of packages that is in it, outdated when pyproject.toml changes.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Layercache needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	$(PIP) install $(PIP_ARGS) -e '.[$*]'
	@touch $@
