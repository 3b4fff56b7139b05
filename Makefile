# Two commands: `make reproduce` and `make test`. `make help` lists the rest.
# Needs a POSIX shell, GNU make 3.81 or newer and Python 3.11 to 3.13; no compiler, no git.

# What you may give: make reproduce PROFILE=smoke CORES=4
PROFILE   := demo
DATASET   :=
DATA_ROOT :=
RESULTS   :=
CORES     :=
LAB_ARGS  :=
BENCH_ARGS :=
LOCK_ARGS :=
# The Python that the environment is made with; empty: the first one found that is new enough.
PYTHON    ?=
# Give BIN=<environment>/bin to use an environment of your own as it is (the conda route).
BIN       := .venv/bin

# A misspelt name would be ignored, and the default run in its place.
known := PROFILE DATASET DATA_ROOT RESULTS CORES LAB_ARGS BENCH_ARGS LOCK_ARGS PYTHON BIN
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
unknown := $(filter-out $(known) space_needed MAKEFLAGS MAKEOVERRIDES -*-%,$(given))
$(if $(unknown),$(error unknown: $(unknown); make takes $(known)))

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help setup reproduce ablation reference test bench lab lock clean clean-data clean-results FORCE
.SUFFIXES:

# Notebooks run with the kernel of the environment, not with one of the same name in the home folder.
export JUPYTER_PREFER_ENV_PATH := 1
# detectron2 calls torch.jit.script by its old name; that need not stand at the top of every notebook.
export PYTHONWARNINGS := ignore::FutureWarning:torch.jit._script
# pip takes no orders from the user's configuration that would break the set-up, and keeps quiet.
PIP_SETTINGS := PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

bin := $(if $(filter /%,$(BIN)),$(BIN),$(CURDIR)/$(BIN))
in_env := PATH="$(bin):$$PATH"
python := $(in_env) "$(bin)/python"

# --- the environment ---------------------------------------------------------------------------
# The stamp is written when set-up is complete. Its name holds a checksum of what the environment
# is made from, and of where it lies, since an environment cannot be moved: so neither a fresh
# checkout nor `touch` sets up anew, and a changed lock does.
made_from := requirements.lock pyproject.toml arcnn/workshop/install_detectron2.py
checksum := $(firstword $(shell { pwd; cat $(made_from); } | cksum))
stamp := .venv/.ready-$(checksum)

ifeq ($(origin BIN),command line)
ready := own-environment
else
ready := $(stamp)
endif

# An environment whose Python is gone (an upgrade took it away) is not ready, whatever its stamp says.
ifneq ($(shell test -x .venv/bin/python && echo yes),yes)
$(stamp): FORCE
endif
FORCE:

setup: $(ready)
	@echo "The environment is ready: $(BIN)"

# Newer than 3.13: immutables, which Snakemake asks for, has no wheel for it yet.
supported := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# What it takes up, in MB: the Linux build of PyTorch brings its CUDA libraries along.
space_needed := $(if $(filter Linux,$(shell uname -s)),7000,2500)

$(stamp):
	@# Can this folder be written to?
	@{ mkdir -p .venv && touch .venv/.writable && rm -f .venv/.writable; } 2>/dev/null || { \
	  echo "Set-up: $(CURDIR) cannot be written to; copy the kit into a folder of yours, or give an environment of your own with BIN=<environment>/bin." >&2; exit 1; }
	@# Two set-ups at once would pull the ground from under each other; the busy one's make is noted.
	@other=$$(cat .venv/.busy 2>/dev/null); if [ -n "$$other" ] && [ "$$other" != "$$PPID" ] && kill -0 "$$other" 2>/dev/null; then \
	  echo "Set-up: another set-up is at work here (process $$other); wait for it, then run the same command again (if there is none, remove .venv/.busy)." >&2; exit 1; fi; \
	echo $$PPID > .venv/.busy
	@# A finished environment of this very place is brought up to date; anything else starts anew.
	@if ls .venv/.ready-* >/dev/null 2>&1 && [ "$$(cat .venv/.place 2>/dev/null)" = "$(CURDIR)" ] \
	    && .venv/bin/python -c '$(supported)' 2>/dev/null; then \
	  echo "Set-up: what the environment is made from has changed; bringing it up to date."; \
	  rm -f .venv/.ready-*; exit 0; \
	fi; \
	found=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python3.11 python3.12 python3.13 python); do \
	  if "$$candidate" -c '$(supported)' >/dev/null 2>&1; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  if [ -n "$(PYTHON)" ]; then \
	    echo "Set-up: PYTHON=$(PYTHON) does not run or is not Python 3.11 to 3.13; give one that is, or leave PYTHON out." >&2; \
	  else \
	    echo "Set-up: no Python 3.11 to 3.13 was found; install one, or say where it is: make setup PYTHON=/path/to/python3." >&2; \
	  fi; exit 1; \
	fi; \
	if ! "$$found" -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "Set-up: $$found cannot make environments (venv or ensurepip is missing); on Debian and Ubuntu install the package python3-venv, then try again." >&2; exit 1; \
	fi; \
	free=$$(df -Pk . | awk 'END { print int($$4 / 1024) }'); \
	if [ "$$free" -lt $(space_needed) ]; then \
	  echo "Set-up: $$free MB are free here, about $(space_needed) are needed; free some space, or put the kit on a larger disk." >&2; exit 1; \
	fi; \
	echo "Set-up 1/4: a new environment in .venv, with $$("$$found" --version 2>&1)."; \
	"$$found" -m venv --clear .venv || { \
	  echo "Set-up: the environment could not be made (see above); put that right, then run the same command again." >&2; exit 1; }; \
	echo $$PPID > .venv/.busy; printf '%s\n' "$(CURDIR)" > .venv/.place
	@# Some packages come as Python source alone. They are built with the setuptools of the lock,
	@# installed first, not with whatever setuptools is the newest today.
	@echo "Set-up 2/4: the packages of requirements.lock (a large download the first time, several minutes)."
	@awk '/^[^ #]/ { wanted = /^setuptools==/ } wanted' requirements.lock > .venv/setuptools.lock
	@for lock in .venv/setuptools.lock requirements.lock; do \
	  $(PIP_SETTINGS) .venv/bin/python -m pip install -qq --no-deps --require-hashes \
	    --no-build-isolation --use-pep517 --requirement $$lock || { \
	    echo "Set-up: the packages could not be installed (pip's words are above). Is the network up, and is there room in this folder and in the one for temporary files ($${TMPDIR:-/tmp})? Put that right, then run the same command again." >&2; exit 1; }; \
	done
	@echo "Set-up 3/4: detectron2."
	@$(PIP_SETTINGS) .venv/bin/python arcnn/workshop/install_detectron2.py
	@echo "Set-up 4/4: this kit, and a last check."
	@{ $(PIP_SETTINGS) .venv/bin/python -m pip install -qq --no-deps --no-index --no-build-isolation --editable . \
	  && $(PIP_SETTINGS) .venv/bin/python -m pip check >.venv/check.log 2>&1; } || { \
	  cat .venv/check.log 2>/dev/null; \
	  echo "Set-up: the environment is not whole (see above); remove the folder .venv, then run the same command again." >&2; exit 1; }
	@touch $@ && rm -f .venv/.busy

# An environment given with BIN is only looked at.
.PHONY: own-environment
own-environment:
	@"$(bin)/python" -c '$(supported)' 2>/dev/null || { \
	  echo "BIN=$(BIN) holds no Python 3.11 to 3.13; give the bin folder of an environment, or leave BIN out." >&2; exit 1; }
	@cd / && "$(bin)/python" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("arcnn", "detectron2", "torch"))))' || { \
	  echo "The environment of BIN=$(BIN) lacks arcnn, detectron2 or torch; see environment.yml for how to make one." >&2; exit 1; }

# --- the kit -----------------------------------------------------------------------------------
# The questions that the paper leaves open: notebooks 11 and 12.
ablation: target := --target ablation
reproduce ablation: $(ready)
	@$(python) -m arcnn.workshop.reproduce --profile "$(PROFILE)" $(target) \
	  $(if $(DATASET),--dataset "$(DATASET)") $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)") \
	  $(if $(RESULTS),--results-root "$(RESULTS)") $(if $(CORES),--cores "$(CORES)")

reference: $(ready)
	@$(python) -m arcnn.workshop.reference --profile "$(PROFILE)" $(if $(RESULTS),--results-root "$(RESULTS)")

test: $(ready)
	@$(python) -m ruff check --quiet .
	@$(python) -m ruff format --check --quiet . || { echo "Not formatted as ruff would; run: $(BIN)/ruff format ." >&2; exit 1; }
	@set -- notebooks/*.ipynb; if [ -e "$$1" ]; then \
	  $(python) -m nbstripout --keep-id --verify "$$@" || { \
	    echo "Notebooks are kept without outputs; run: $(BIN)/nbstripout --keep-id notebooks/*.ipynb" >&2; exit 1; }; fi
	@$(python) -m pytest -q

bench: $(ready)
	@$(python) tests/bench.py $(BENCH_ARGS)

lab: $(ready)
	@cd notebooks && $(python) -m jupyterlab $(LAB_ARGS)

# --- upkeep ------------------------------------------------------------------------------------
# One lock for Linux and macOS and Python 3.11 to 3.13. The resolver lives in a folder of its own.
uv_version := 0.13.9
# Needs no environment, since the lock may be what keeps the environment from being made.
lock:
	@$(or $(PYTHON),python3) -m venv --clear build/lock
	@build/lock/bin/python -m pip install -qq uv==$(uv_version)
	@build/lock/bin/uv pip compile --quiet pyproject.toml --extra detectron2 --extra dev --universal \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-config \
	  $(LOCK_ARGS) --output-file requirements.lock
	@echo "requirements.lock is up to date; LOCK_ARGS=--upgrade takes newer versions."

# Data, results and Snakemake's notes on them stay.
clean:
	rm -rf .venv build arcnn.egg-info .pytest_cache .ruff_cache .hypothesis
	find arcnn tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data:
	rm -rf data/tabletop

clean-results:
	@case "$(PROFILE)" in ""|*/*|.*|*[!A-Za-z0-9_-]*) echo "PROFILE=$(PROFILE) is not the name of a profile." >&2; exit 1;; esac
	rm -rf "results/$(PROFILE)"

help:
	@echo "make reproduce      run every notebook of a profile; results go to results/<profile>/"
	@echo "                    [PROFILE=smoke|demo|small|overfit|paper] [DATASET=...] [DATA_ROOT=...] [RESULTS=...] [CORES=...]"
	@echo "make ablation       compare the readings of the paper on frozen features (notebooks 11, 12)"
	@echo "make test           style, notebook checks and tests"
	@echo "make bench          times beside those of other tools, a JSON object a line [BENCH_ARGS=...]"
	@echo "make lab            JupyterLab in the environment [LAB_ARGS=...]"
	@echo "make setup          only create the environment in .venv [PYTHON=...]"
	@echo "make reference      keep the small files of a profile's results in results/reference/"
	@echo "make lock           resolve requirements.lock anew from pyproject.toml [LOCK_ARGS=--upgrade]"
	@echo "make clean          remove the environment and caches"
	@echo "make clean-data     remove the generated data set"
	@echo "make clean-results  remove the results of one profile [PROFILE=demo]"
	@echo "With BIN=<environment>/bin each of these uses an environment of your own as it is."
