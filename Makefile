# `make repro` and `make test` need nothing but Python 3.11 and git; the first call makes the environment in .venv.

PYTHON ?= python3.11
VENV := .venv
READY := $(VENV)/.ready
SPARK := $(VENV)/.spark
# The CUDA build of torch where there is a GPU, else the CPU build if pip's indexes offer one (PyPI's own Linux build
# runs on a CPU too, but is larger; PIP_EXTRA_INDEX_URL can name PyTorch's CPU index).
TORCH := $(shell sed -n 's/^torch==//p' requirements.lock)
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -c GPU)

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONPATH := $(CURDIR)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: repro test notebooks readme spark lock clean help

repro: $(READY)  ## run what has changed, from raw files to submissions, and say what came of it
	dvc repro
	@echo; cat reports/summary.txt

test: $(READY) $(SPARK)  ## check the code and run all tests
	ruff check .
	ruff format --check .
	mypy
	python -m pytest -n 2

notebooks: $(READY)  ## run the notebooks on the current tables and keep their pictures
	python notebooks/refresh.py

readme: $(READY)  ## quote the last run's summary, the benchmarks' results and the tree in README.md
	python tools/readme.py

spark: $(READY) $(SPARK)  ## add PySpark to the environment, for `runtime.engine: spark`

lock: requirements.in  ## resolve requirements.in anew into requirements.lock
	rm -rf .lock && $(PYTHON) -m venv .lock && .lock/bin/pip install --quiet -r requirements.in
	( echo '# Made by `make lock` from requirements.in; Python 3.11.'; \
	  .lock/bin/pip freeze | sed 's/^\(torch==[0-9.]*\)+.*/\1/' ) > requirements.lock && rm -rf .lock

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo 'error: expected Python 3.11 as $(PYTHON); name another with make PYTHON=...' >&2; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
ifneq ($(filter-out 0,$(GPU)),)
	$(VENV)/bin/pip install --quiet 'torch===$(TORCH)'
else
	$(VENV)/bin/pip install --quiet 'torch==$(TORCH)+cpu' 2>/dev/null || $(VENV)/bin/pip install --quiet 'torch==$(TORCH)'
endif
	$(VENV)/bin/pip install --quiet -r requirements.lock
	touch $@

$(SPARK): requirements-spark.txt | $(READY)
	$(VENV)/bin/pip install --quiet -r requirements-spark.txt
	touch $@

clean:  ## remove the environment and everything that a run has made, but not downloads and studies
	rm -rf $(VENV) artifacts checkpoints data/tables data/splits data/features data/encoded data/raw data/truth data/tmp

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12
