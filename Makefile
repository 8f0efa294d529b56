# Everything runs in .venv, which make owns. `make help` lists the targets.
PYTHON  ?= python3
PROFILE ?= quick
JOBS    ?= 2
OUT     ?= _build/speed
PORT    ?= 8000
# Small tensors gain nothing from a second thread, and lose much where the cores are not theirs alone.
THREADS ?= 1
BIN     := .venv/bin

# TORCH=cpu or TORCH=cuda asks for that build by its local version (2.13.0+cpu); a CUDA tag (TORCH=cu126) works too.
TORCH       ?=
torch_build := $(if $(filter cuda,$(TORCH)),cu130,$(TORCH))
torch_pin   := $(shell sed -n 's/^torch==//p' constraints.txt)
torch       := $(if $(TORCH),--extra-index-url https://download.pytorch.org/whl/$(torch_build) \
                 torch==$(torch_pin)+$(torch_build))

.PHONY: help venv book test lint bench bench-check lab serve clean
.DEFAULT_GOAL := help

help:
	@echo "make book    execute every notebook, build the HTML: _build/$(PROFILE)/html/index.html"
	@echo "             PROFILE=full builds the published book from the committed records; JOBS=2 notebooks at a time"
	@echo "make test    pytest, every notebook again (nbval), the checks of the built book"
	@echo "make lint    ruff on code and notebooks, mypy on vae/ and measured/"
	@echo "make bench   how fast the trainer is beside its peers, up to an hour; DEVICE=cuda; OUT=results/speed publishes"
	@echo "make lab     JupyterLab on the notebooks"
	@echo "make serve   the built book on http://127.0.0.1:$(PORT) (PROFILE=..., PORT=...)"
	@echo "make venv    only the environment; TORCH=cpu|cuda chooses PyTorch's build, PYTHON=... the interpreter"
	@echo "make clean   remove _build (the environment stays; delete .venv to start afresh)"

venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, but $(PYTHON) is " \
	  + sys.version.split()[0] + "; name another one: make $(MAKECMDGOALS) PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (some minutes the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check $(torch) -e '.[book,test]' -c constraints.txt
	@touch $@
	@echo "The environment is ready"

book: .venv/installed
	@$(BIN)/python book/build.py --profile $(PROFILE) --jobs $(JOBS)

# The cheapest failures come first. The checks of the built book look at the quick one.
test: .venv/installed
	OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest --ignore=tests/test_book.py
	OMP_NUM_THREADS=$(THREADS) VAE_RECORDS=compute $(BIN)/python -m pytest -n $(JOBS) --dist loadfile \
	  --nbval --nbval-current-env notebooks
	$(BIN)/python book/build.py --jobs $(JOBS)
	$(BIN)/python -m pytest tests/test_book.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The peers, which nothing else needs; about 1 GB.
.venv/bench: .venv/installed
	@echo "Installing the peers into .venv"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[bench]' -c constraints.txt
	@touch $@

bench: .venv/bench
	$(BIN)/python -m benchmarks --out $(OUT) $(if $(DEVICE),--device $(DEVICE))

# Equal results of all, and no time: what CI runs.
bench-check: .venv/bench
	$(BIN)/python -m benchmarks --check

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

serve: .venv/installed
	@test -e _build/$(PROFILE)/html/index.html || { echo "no book yet: make book PROFILE=$(PROFILE)"; exit 1; }
	@echo "http://127.0.0.1:$(PORT) (Ctrl-C ends)"
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/$(PROFILE)/html $(PORT)

clean:
	rm -rf _build
