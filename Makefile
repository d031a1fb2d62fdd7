# Every command of the workbook. `make` alone prints this list.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
# A run: its folder under outputs/, its parameter files (one over the other), its data; NB="04 05": these notebooks only.
RUN ?=
PROFILE ?= demo
DATA ?=
NB ?=
# AGAIN=1: what was made from other data, or by other code, than lie there now is moved to outputs/replaced and made again.
AGAIN ?=
# Trainings at once on GPUs (empty: one each; more share them), and profiles/<ON>: default (this machine) or slurm.
# ARGS: further options for snakemake (make run), pytest (make test) or JupyterLab (make lab).
GPUS ?=
ON ?= default
ARGS ?=
PIPELINE = PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m lib.runs.pipeline

# Kaggle: whose account, which notebook (NB=04_kfold; 08_submission by default) of which run, with which parameters
# (SET="fold=2 epochs=60"), on a GPU (GPU=1)
OWNER ?= $(KAGGLE_USERNAME)
VARIANT ?= curated

.PHONY: help setup run demo cells test test-slurm test-kills test-mutants golden lab report findings bench bench-gpu kaggle data lint clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/made ## make the virtual environment .venv with the tested versions

.venv/made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is another: make setup PYTHON=python3.12"; exit 1; }
	@echo "Making the environment .venv and installing the tested versions (two minutes, most of them PyTorch) ..."
	@$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,pipeline,kaggle]'
	@touch $@ && echo "Ready. Next: make demo, or source .venv/bin/activate"

run: setup ## all notebooks of RUN with PROFILE on DATA=folder, or NB="04 05" and what they need; goes on where it was
	@$(PIPELINE) --run '$(RUN)' --profile '$(PROFILE)' --data '$(DATA)' --only '$(NB)' $(if $(GPUS),--gpus $(GPUS)) --on $(ON) $(if $(AGAIN),--again) -- $(ARGS)

demo: setup ## all notebooks on a synthesised data set, in four minutes on two cores; then the report
	@$(PIPELINE) --run demo --profile demo $(if $(AGAIN),--again)
	@$(BIN)/python -m lib.runs.pages outputs/demo

cells: setup ## write the parameters cells of all notebooks from lib/settings.py, where every knob stands once
	@$(BIN)/python -m lib.settings

test: setup lint ## lint, unit tests, every notebook on demo data, a real fold, a kill (minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadgroup --no-loadscope-reorder $(ARGS)

test-slurm: setup ## the pipeline on a SLURM of one node, which it starts on this machine (Debian, root)
	TEST_SLURM=1 $(BIN)/python -m pytest tests/test_slurm.py

test-kills: setup ## ten kills of a demo run, and the same numbers in the end (a quarter of an hour)
	$(BIN)/python tests/ten_kills.py

test-mutants: setup ## change each line of tests/mutants.yaml, one at a time: a test must fail (minutes); IDS="leak-1 ..."
	@$(BIN)/python -W ignore::FutureWarning tests/mutants.py $(IDS)

golden: setup ## a demo run, and what of its numbers differs from tests/golden.json (WRITE=1: keep it as the golden one)
	@PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python tests/golden.py $(if $(WRITE),--write) $(ARGS)

lint: setup ## ruff, and no outputs in notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-id --extra-keys "metadata.papermill cell.metadata.papermill metadata.language_info.version" notebooks/*.ipynb

# One thread a kernel, as in `make run`: two trainings of two threads on two cores take ten times as long, and another
# number of threads makes other last bits. OMP_NUM_THREADS=8 make lab: for one notebook alone.
lab: setup ## JupyterLab on the notebooks; ARGS="--no-browser --port 8890": further words for it
	cd notebooks && OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} ../$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

report: setup ## render the executed notebooks of RUN as pages to open from disk, outputs/RUN/report/index.html
	@test -n '$(RUN)' || { echo "make report wants a run: make report RUN=demo"; exit 1; }
	@$(BIN)/python -m lib.runs.pages outputs/$(RUN)

findings: setup ## copy what runs have found to outputs/findings, and write the numbers of README and docs anew
	@$(BIN)/python -m lib.runs.pages

bench: setup ## speed, memory, minutes: one table, kept in benchmarks/results.csv; NB="bench_cache": these alone
	@$(BIN)/python benchmarks/table.py $(NB)

bench-gpu: setup ## speed and weights on a GPU, against the commit that drew epochs on the processor; BEFORE=folder, without git
	@$(BIN)/python benchmarks/gpu.py $(BEFORE)

kaggle: setup ## pack NB of RUN as a kernel and its weights as a data set: OWNER=name [GPU=1] [SET="key=value ..."]
	@$(BIN)/python -m lib.submission.kaggle notebooks/$(or $(NB),08_submission).ipynb outputs/$(RUN) --owner '$(OWNER)' --profile '$(PROFILE)' \
		--variant $(VARIANT) --folder build/kaggle $(if $(GPU),--gpu) $(addprefix --set ,$(SET)) --sources '$(SOURCES)'

# The command goes on with a download that was cut off; unzip writes all of it again, since a kill cuts a file short.
FSD = $(or $(DATA),data/fsd2019)
ZIP = $(FSD)/freesound-audio-tagging-2019.zip
data: setup ## download FSDKaggle2019 to DATA (data/fsd2019) by the kaggle command; docs/data.md tells how to do it by hand
	@mkdir -p '$(FSD)' && if test -f '$(FSD)/sample_submission.csv' && ! test -f '$(ZIP)'; then \
		echo "$(FSD) holds FSDKaggle2019 already: give it as DATA."; exit; fi; \
	$(BIN)/kaggle competitions download freesound-audio-tagging-2019 -p '$(FSD)' && unzip -q -o '$(ZIP)' -d '$(FSD)' \
		&& rm '$(ZIP)' && echo "$(FSD) holds FSDKaggle2019: give it as DATA." || { echo "This stopped, see above; what \
	was downloaded is kept: run the same again to go on. It needs 60 GB of disk, an API token \
	(https://www.kaggle.com/settings), and the rules accepted once: \
	https://www.kaggle.com/c/freesound-audio-tagging-2019/rules. Is the archive damaged? Delete it first. \
	By hand, from Zenodo: docs/data.md."; exit 1; }

clean: ## remove caches and runs, but not outputs/findings
	find outputs -mindepth 1 -maxdepth 1 ! -name findings ! -name README.md -exec rm -rf {} +
	rm -rf .ruff_cache .hypothesis build
