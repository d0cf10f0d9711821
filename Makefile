# `make` alone prints the targets. VENV=/path/to/env uses an environment of your own (its torch and
# detectron2 are kept); PYTHON=python3.12 chooses the Python that a new environment is made with.
VENV ?= .venv
PYTHON ?= python3
SEEDS ?= 1
CONFIG ?=
ARGS ?=

PY := $(VENV)/bin/python
.PHONY: help env demo demo-classification test train lint clean

## make demo                 train a teacher, a student and a distilled student; compare (SEEDS=1)
## make demo-classification  the same for classifiers: student alone, KD and RCKA
## make test                 lint, then the tests (ARGS="-k name" goes to pytest)
## make train CONFIG=FILE    train by a config (ARGS="KEY VALUE ..." overrides its keys)
## make lint                 ruff alone
## make env                  make or update the environment in VENV; all targets above do it first
## make clean                remove caches and build products (keeps the environment and output/)
help:
	@sed -n 's/^## //p' Makefile
	@echo
	@echo "VENV=$(VENV)  an environment of your own can stand in: make test VENV=/path/to/env"
	@echo "PYTHON=$(PYTHON)  makes a new environment; 3.11 or newer"

env:
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { \
	    echo "pcka: there is no '$(PYTHON)' on this machine's PATH. Install Python 3.11 or newer, or" \
	         "name the one to use: make env PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" tools/bootstrap.py --venv "$(VENV)"

demo: env
	"$(PY)" tools/compare.py configs/quickstart/demo.yaml --seeds $(SEEDS)

demo-classification: env
	"$(PY)" tools/compare.py configs/classification/digits/demo.yaml --seeds $(SEEDS)

# One thread: the tests' tensors are small, and two threads beside another busy process are slower.
test: export OMP_NUM_THREADS = 1
test: lint
	"$(PY)" -m pytest $(ARGS)

train: env
	@test -n "$(CONFIG)" || { \
	    echo 'pcka: which config? make train CONFIG=configs/... ARGS="KEY VALUE ..."' >&2; exit 2; }
	"$(PY)" tools/train_net.py --config-file "$(CONFIG)" $(ARGS)

lint: env
	"$(PY)" -m ruff check .

clean:
	rm -rf build dist projects/*.egg-info .pytest_cache .ruff_cache .hypothesis
	find projects classification tools tests benchmarks -name __pycache__ -prune \
	    -exec rm -rf {} + 2>/dev/null || true
