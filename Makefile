# Two commands: `make reproduce` and `make test`. `make help` lists the rest.
# Needs a POSIX shell, GNU make 3.81 or newer and Python 3.11 to 3.13; no compiler, no git.

# What you may give: make reproduce PROFILE=smoke CORES=4
PROFILE   := demo
DATASET   :=
SEEDS     :=
DATA_ROOT :=
RESULTS   :=
CORES     :=
EXECUTOR  :=
GPU_JOBS  :=
LAB_ARGS  :=
BENCH_ARGS :=
SOAK_ARGS :=
LOCK_ARGS :=
AUDIT_ARGS :=
FILES :=
# The Python that the environment is made with; empty: the first one found that is new enough.
PYTHON    ?=
# An index of PyTorch's CPU builds, or a folder with them: an environment without CUDA.
TORCH_CPU ?=
# Give BIN=<environment>/bin to use an environment of your own as it is (the conda route).
BIN       := .venv/bin

# A misspelt name would be ignored, and the default run in its place.
known := PROFILE DATASET SEEDS DATA_ROOT RESULTS CORES EXECUTOR GPU_JOBS LAB_ARGS BENCH_ARGS SOAK_ARGS LOCK_ARGS FILES AUDIT_ARGS PYTHON TORCH_CPU BIN
given := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
unknown := $(filter-out $(known) space_needed MAKEFLAGS MAKEOVERRIDES -*-%,$(given))
$(if $(unknown),$(error unknown: $(unknown); make takes $(known)))

# Was there a BIN, a TORCH_CPU? Of the latter, an empty one too on the command line.
own := $(findstring command,$(origin BIN))
torch_cpu := $(if $(filter command,$(origin TORCH_CPU))$(value TORCH_CPU),"$$TORCH_CPU")
# A value is text. Neither make nor a shell looks for orders in it: recipes have it from their
# environment, as "$$PROFILE".
$(foreach name,$(known),$(eval override $(name) := $$(value $(name))))
export $(known)

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help environment setup reproduce rehearse ablation start reference book slides report test test-lab test-slurm test-long soak bench mutants coverage lab lock audit clean clean-data clean-results
.SUFFIXES:

# Notebooks run with the kernel of the environment, not with one of the same name in the home folder.
export JUPYTER_PREFER_ENV_PATH := 1
# detectron2 calls torch.jit.script by its old name; that need not stand at the top of every notebook.
export PYTHONWARNINGS := ignore::FutureWarning:torch.jit._script
# Every process, notebook kernels too, runs the package that lies here, whatever clone's package
# the environment has; what the user has in PYTHONPATH comes after it.
export PYTHONPATH := $(CURDIR)$(if $(value PYTHONPATH),:$(value PYTHONPATH))

export bin := $(if $(filter /%,$(firstword $(BIN))),$(BIN),$(CURDIR)/$(BIN))
python := PATH="$$bin:$$PATH" "$$bin/python"

# --- the environment ---------------------------------------------------------------------------
# Looked at before each target, which takes a tenth of a second, and made where it must be; one
# that is given with BIN is only looked at. Any Python can start the program that does this.
environment:
	@for python in "$$bin/python" $${PYTHON:+"$$PYTHON"} python3 python3.11 python3.12 python3.13 python; do \
	  "$$python" -ISc 'import sys; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1 && \
	    exec "$$python" -IS arcnn/workshop/setup/environment.py $(if $(own),--own "$$BIN","$$PYTHON" $(torch_cpu)); \
	done; \
	echo "Set-up: no Python 3.11 to 3.13 was found; install one, or say where it is: make setup PYTHON=/path/to/python3." >&2; exit 1

setup: environment
	@echo "The environment is ready: $$BIN"

# --- the kit -----------------------------------------------------------------------------------
# The questions that the paper leaves open: notebooks 11 and 12.
target :=
ablation: target := --target ablation
reproduce ablation: environment
	@$(python) -m arcnn.workshop.run.reproduce --profile="$$PROFILE" $(target) \
	  $${DATASET:+--dataset="$$DATASET"} $${SEEDS:+--seeds="$$SEEDS"} $${DATA_ROOT:+--data-root="$$DATA_ROOT"} \
	  $${RESULTS:+--results-root="$$RESULTS"} $${CORES:+--cores="$$CORES"} \
	  $${EXECUTOR:+--executor="$$EXECUTOR"} $${GPU_JOBS:+--gpu-jobs="$$GPU_JOBS"}

# What would it take here, and what is missing? A few steps and images of everything.
rehearse: environment
	@$(python) -m arcnn.workshop.run.rehearse --profile="$$PROFILE" \
	  $${DATASET:+--dataset="$$DATASET"} $${SEEDS:+--seeds="$$SEEDS"} $${DATA_ROOT:+--data-root="$$DATA_ROOT"} \
	  $${RESULTS:+--results-root="$$RESULTS"} $${CORES:+--cores="$$CORES"}

# What trainings on tabletop start from: an hour on one core. The result lies in data/start/.
start: environment
	@$(python) -m arcnn.workshop.run.reproduce --profile start --target start $${RESULTS:+--results-root="$$RESULTS"}
	@$(python) -m arcnn.workshop.run.start $${RESULTS:+--results-root="$$RESULTS"}

reference: environment
	@$(python) -m arcnn.workshop.run.reference --profile="$$PROFILE" $${RESULTS:+--results-root="$$RESULTS"}

# Of the executed notebooks, to read and to show without Jupyter and without a network.
book slides report: environment
	@$(python) -m arcnn.workshop.notebooks.$@ --profile="$$PROFILE" $${RESULTS:+--results-root="$$RESULTS"}

test: environment
	@$(python) -m ruff check --quiet .
	@$(python) -m ruff format --check --quiet . || { echo "Not formatted as ruff would; run: $$BIN/ruff format ." >&2; exit 1; }
	@set -- notebooks/*.ipynb; if [ -e "$$1" ]; then \
	  $(python) -m nbstripout --keep-id --verify "$$@" || { \
	    echo "Notebooks are kept without outputs; run: $$BIN/nbstripout --keep-id notebooks/*.ipynb" >&2; exit 1; }; fi
	@OMP_NUM_THREADS=1 $(python) -m pytest -q -n logical --maxprocesses 4 --dist loadfile --max-worker-restart 0

# Every notebook of the course in a real JupyterLab, by a browser; `make test` does two of them.
test-lab: environment
	@OMP_NUM_THREADS=1 $(python) -m pytest -q -m "long or not long" tests/test_lab.py

# Tests that take minutes, besides those two.
test-long: environment
	@OMP_NUM_THREADS=1 $(python) -m pytest -q -m long --ignore=tests/test_lab.py --ignore=tests/test_slurm.py

# A grid as jobs of Debian's Slurm, set up on this machine for the test (slurm-wlm, munge).
test-slurm: environment
	@OMP_NUM_THREADS=1 $(python) -m pytest -q -rs -m "long or not long" -o faulthandler_timeout=7200 tests/test_slurm.py

# A smoke run killed a hundred times, then the fuzzers; an hour or more.
soak: environment
	@$(python) tests/soak.py $$SOAK_ARGS

bench: environment
	@$(python) tests/bench.py $$BENCH_ARGS

# Do the tests bite? Small errors in the code that makes the numbers, one at a time.
mutants: build/measure
	@PATH="$$bin:$$PATH" build/measure/bin/python tests/mutate.py $$FILES

# Lines and branches of the paper's wing that the tests come by, in their processes too.
coverage: build/measure
	@rm -f build/coverage/*
	@OMP_NUM_THREADS=1 PATH="$$bin:$$PATH" build/measure/bin/python -m coverage run -m pytest -q
	@build/measure/bin/python -m coverage combine -q
	@build/measure/bin/python -m coverage report

# The environment, and two packages beside it that nobody needs who runs the kit.
build/measure: environment
	@$(python) -m venv --clear --without-pip $@
	@where='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	  $(python) -c "$$where" > "$$($@/bin/python -c "$$where")/kit.pth"
	@$(python) -m pip --python $@/bin/python install -qq --no-deps mutmut==3.8.1 libcst==1.9.0 coverage==7.17.5

# On copies in lab/, so that stepping through changes neither the kit nor what it reproduced.
lab: environment
	@$(python) -m arcnn.workshop.notebooks.lab
	@$(python) -m jupyterlab --ServerApp.root_dir="$$PWD" --LabApp.default_url=/lab/tree/lab/index.ipynb $$LAB_ARGS

# --- upkeep ------------------------------------------------------------------------------------
# One lock for Linux and macOS and Python 3.11 to 3.13. The resolver lives in a folder of its own.
uv_version := 0.13.9
# Needs no environment, since the lock may be what keeps the environment from being made.
lock:
	@"$${PYTHON:-python3}" -m venv --clear build/lock
	@build/lock/bin/python -m pip install -qq uv==$(uv_version)
	@build/lock/bin/uv pip compile --quiet pyproject.toml --extra detectron2 --extra book --extra video --extra cluster --extra dev --universal \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-config \
	  $$LOCK_ARGS --output-file requirements.lock
	@echo "requirements.lock is up to date; LOCK_ARGS=--upgrade takes newer versions."

# Known vulnerabilities of the locked packages; says so where no database of them could be asked.
audit:
	@"$${PYTHON:-python3}" -m venv --clear build/audit
	@build/audit/bin/python -m pip install -qq pip-audit==2.10.1 || { \
	  echo "Not checked: pip-audit could not be fetched (see above)." >&2; exit 2; }
	@build/audit/bin/python arcnn/workshop/setup/audit.py $$AUDIT_ARGS

# Data, results and Snakemake's notes on them stay.
clean:
	rm -rf .venv build arcnn.egg-info .pytest_cache .ruff_cache .hypothesis
	find arcnn tests -name __pycache__ -type d -prune -exec rm -rf {} +

clean-data:
	rm -rf data/tabletop data/tabletop.partial*

clean-results:
	@case "$$PROFILE" in \
	  ""|*/*|.*|*[!A-Za-z0-9_-]*) echo "PROFILE=$$PROFILE is not the name of a profile." >&2; exit 1;; \
	  reference) echo "PROFILE=reference: results/reference is kept in git; name a profile that was run." >&2; exit 1;; esac
	rm -rf -- "$${RESULTS:-results}/$$PROFILE"

help:
	@echo "make reproduce      run every notebook of a profile; results go to results/<profile>/"
	@echo "                    [PROFILE=smoke|demo|small|overfit|paper] [DATASET=...] [SEEDS=5] [DATA_ROOT=...] [RESULTS=...] [CORES=...]"
	@echo "                    [EXECUTOR=slurm: on a cluster] [GPU_JOBS=2: so many at once on one GPU]"
	@echo "make rehearse       what would that take here, and what is missing? Minutes; the same choices"
	@echo "make ablation       compare the readings of the paper on frozen features (notebooks 11, 12)"
	@echo "make book           a profile's executed notebooks as a book of pages that opens from disk"
	@echo "make slides         slides of the notebooks of the 90-minute class"
	@echo "make report         a profile's run as one file: results, notebooks, what was made of what, times"
	@echo "make test           style, notebook checks and tests"
	@echo "make test-lab       every notebook in a real JupyterLab, by a browser (Chromium)"
	@echo "make test-long      tests that take minutes"
	@echo "make test-slurm     a grid of runs on a Slurm of this machine's own"
	@echo "make soak           kills a smoke run a hundred times, and compares [SOAK_ARGS='--kills 20 --minutes 1']"
	@echo "make bench          times beside those of other tools, a JSON object a line [BENCH_ARGS=...]"
	@echo "make mutants        do the tests see small errors in the code? Half an hour [FILES=arcnn/...]"
	@echo "make coverage       which lines and branches the tests come by"
	@echo "make lab            the course in JupyterLab, on copies in lab/ [LAB_ARGS=...]"
	@echo "make setup          only create the environment in .venv [PYTHON=...] [TORCH_CPU=...]"
	@echo "make reference      keep the small files of a profile's results in results/reference/"
	@echo "make start          train the weights that trainings on tabletop start from anew"
	@echo "make lock           resolve requirements.lock anew from pyproject.toml [LOCK_ARGS=--upgrade]"
	@echo "make audit          known vulnerabilities of the packages in requirements.lock [AUDIT_ARGS=...]"
	@echo "make clean          remove the environment and caches"
	@echo "make clean-data     remove the generated data set"
	@echo "make clean-results  remove the results of one profile [PROFILE=demo]"
	@echo "With TORCH_CPU=<index of PyTorch's CPU builds, or a folder with them>, given once to any of these that"
	@echo "sets up, the environment has no CUDA: 2 GB instead of 7."
	@echo "With BIN=<environment>/bin each of these uses an environment of your own as it is."
