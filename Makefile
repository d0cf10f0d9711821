# `make` alone prints the targets. VENV=/path/to/env uses an environment of your own (its torch and
# detectron2 are kept); PYTHON=python3.12 chooses the Python that a new environment is made with.
VENV ?= .venv
PYTHON ?= python3
SEEDS ?= 1
CONFIG ?=
ARGS ?=
WORKERS ?= 2

PY := $(VENV)/bin/python
# An environment with this file was made here, and follows requirements.lock.
OURS := $(VENV)/.pcka-lock
STAMP := $(VENV)/.pcka-stamp
# detectron2's wheel is tagged cp310, for a C extension that is not needed: --target lets pip take
# it elsewhere. --no-deps, because it asks for numpy<2 and black, and runs without either.
D2 := --target "$$("$(PY)" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
      --python-version 3.10 --implementation cp --abi none --platform any --only-binary=:all: \
      --no-deps --upgrade --require-hashes -r requirements-detectron2.txt

.PHONY: help env demo demo-classification test train lint docs clean

## make demo                 train a teacher, a student and two distilled students; compare (SEEDS=1)
## make demo-classification  the same for classifiers: student alone, KD and RCKA
## make test                 lint, then the tests (ARGS="-k name" goes to pytest; WORKERS=0 starts
##                           a single test sooner)
## make train CONFIG=FILE    train by a config (ARGS="KEY VALUE ..." overrides its keys)
## make lint                 ruff and mypy
## make docs                 the documentation with the API reference as HTML, in output/site
## make env                  make or update the environment in VENV; all targets above do it first
## make clean                remove caches and build products (keeps the environment and output/)
help:
	@sed -n 's/^## //p' Makefile
	@echo
	@echo "VENV=$(VENV)  an environment of your own can stand in: make test VENV=/path/to/env"
	@echo "PYTHON=$(PYTHON)  makes a new environment; 3.11 or newer"

env: $(STAMP)

$(PY):
	@command -v "$(PYTHON)" >/dev/null 2>&1 || { echo "pcka: no '$(PYTHON)' on this machine's PATH." \
	    "Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "pcka: $(PYTHON) is" \
	    "too old: name Python 3.11 or newer, make PYTHON=/path/to/python3" >&2; exit 1; }
	@mkdir -p "$(VENV)" && touch "$(OURS)"
	@"$(PYTHON)" -m venv "$(VENV)" || { echo "pcka: $(PYTHON) could not make an environment: it may" \
	    "lack its venv module (Debian: apt install python3-venv)" >&2; exit 1; }

# The stamp is written last, so an interrupted installation is completed by the next call.
$(STAMP): requirements.lock requirements-detectron2.txt setup.cfg pyproject.toml | $(PY)
	@"$(PY)" -m pip --version >/dev/null 2>&1 || "$(PY)" -m ensurepip
	@if [ -e "$(OURS)" ]; then \
	    echo "pcka: installing requirements.lock in $(VENV) (3 GB to download, 6 GB of disk)" && \
	    "$(PY)" -m pip install --quiet --constraint requirements.lock setuptools && \
	    "$(PY)" -m pip install --quiet --no-build-isolation -r requirements.lock; \
	else \
	    echo "pcka: adding what is missing to $(VENV)" && \
	    "$(PY)" -m pip install --quiet 'setuptools>=64,<81' && \
	    "$(PY)" -m pip install --quiet --no-build-isolation --editable '.[test]'; \
	fi
	@if ! "$(PY)" -W ignore -c 'import detectron2' 2>/dev/null || \
	    "$(PY)" -m pip show --quiet sal-detectron2 2>/dev/null; \
	then "$(PY)" -m pip install --quiet $(D2); fi
	@"$(PY)" -m pip install --quiet --no-deps --no-build-isolation --editable .
	@"$(PY)" -W ignore -c "import torch, torchvision, detectron2.engine, pcka; \
	    gpu = torch.cuda.is_available(); \
	    print('pcka: ready, torch', torch.__version__, 'on', 'GPU' if gpu else 'CPU')"
	@touch "$@"

demo: env
	"$(PY)" -m pcka study configs/quickstart/demo.yaml --seeds $(SEEDS)

demo-classification: env
	"$(PY)" -m pcka study configs/classification/digits/demo.yaml --seeds $(SEEDS)

# One thread a process: the tensors of the tests are small. Worksteal keeps most modules whole, so
# that their fixtures are made once.
test: export OMP_NUM_THREADS = 1
test: lint
	"$(PY)" -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

train: env
	@test -n "$(CONFIG)" || { \
	    echo 'pcka: which config? make train CONFIG=configs/... ARGS="KEY VALUE ..."' >&2; exit 2; }
	"$(PY)" -m pcka train --config-file "$(CONFIG)" $(ARGS)

lint: env
	"$(PY)" -m ruff check .
	"$(PY)" -m ruff format --check .
	"$(PY)" -m mypy

docs: env
	"$(PY)" -m pip install --quiet -r requirements-docs.txt
	"$(PY)" -m mkdocs build --strict --site-dir output/site

clean:
	rm -rf build dist projects/*.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find projects classification tools tests benchmarks -name __pycache__ -prune \
	    -exec rm -rf {} + 2>/dev/null || true
