# Every command of the workbook. `make` alone prints this list.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
BIN := .venv/bin
RUN ?= demo
PROFILE ?= demo
FOLDS ?= 0 1 2 3 4
PAIRS = $(foreach f,$(FOLDS),$(foreach g,$(FOLDS),$(if $(filter 1,$(shell expr $f \< $g)),$(f)_$(g))))
PART := outputs/$(RUN)/04_kfold/curated
DATA_DIR := $(if $(DATA),-p data_dir $(DATA))
PAPERMILL = $(BIN)/papermill --no-progress-bar --log-output -f params/$(PROFILE).yaml -p run $(RUN) $(DATA_DIR)
# Two trainings side by side, a core each: faster than one on both, and the same numbers on any machine with two.
JOBS ?= 2
ONE_CORE := OMP_NUM_THREADS=1

# Kaggle: whose account, which notebook of which run, with which parameters (SET="fold=2 epochs=60"), on a GPU (GPU=1)
OWNER ?= $(KAGGLE_USERNAME)
NB ?= 08_submission
VARIANT ?= curated

.PHONY: help setup demo kfold pairs test lab report bench kaggle data lint clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: .venv/made ## make the virtual environment .venv with the tested versions

.venv/made: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed, $(PYTHON) is another: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,pipeline,kaggle]'
	@touch $@

demo: RUN := demo
demo: PROFILE := demo
demo: setup ## synthesise the demo set, train all its folds, print the pooled out-of-fold score (under 5 minutes)
	@$(BIN)/python -c 'from lib import demo, runs; print("demo set:", demo.make(runs.ROOT / "outputs" / "demo-data"))'
	@$(MAKE) --no-print-directory kfold RUN=demo PROFILE=demo

kfold: setup ## train FOLDS of RUN with PROFILE on DATA=folder, then pool them
	@$(MAKE) --no-print-directory -j$(JOBS) $(foreach fold,$(FOLDS),$(PART)/without_$(fold)/result.json)
	@mkdir -p $(PART)/pooled
	@$(PAPERMILL) -p fold -1 notebooks/04_kfold.ipynb $(PART)/pooled/executed.ipynb 2> $(PART)/pooled/log.txt \
		|| { tail -n 20 $(PART)/pooled/log.txt; exit 1; }
	@$(BIN)/python -c 'import json; print(json.load(open("$(PART)/pooled/result.json"))["says"])'
	@echo "Look at $(PART)/pooled/ (figures, tables, executed.ipynb), or open it: make lab"

pairs: kfold ## after kfold, train the models without two of FOLDS, which 06_stage2 needs (as `make kfold`)
	@$(MAKE) --no-print-directory -j$(JOBS) $(foreach pair,$(PAIRS),$(PART)/without_$(pair)/result.json)

$(PART)/without_%/result.json: | setup
	@mkdir -p $(@D)
	@echo "fold $*: training (progress: tail -f $(@D)/log.txt)"
	@$(ONE_CORE) $(PAPERMILL) -p fold $(firstword $(subst _, ,$*)) -p holdout_fold $(or $(word 2,$(subst _, ,$*)),-1) notebooks/04_kfold.ipynb $(@D)/executed.ipynb 2> $(@D)/log.txt \
		|| { echo "04_kfold failed on fold $*:"; tail -n 20 $(@D)/log.txt; exit 1; }
	@$(BIN)/python -c 'import json; print("fold $*:", json.load(open("$@"))["says"])'

test: setup lint ## lint, unit tests, every notebook on demo data, a real fold, a kill (about 10 minutes)
	$(BIN)/python -m pytest

lint: setup ## ruff, and no outputs in notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-id --extra-keys "metadata.papermill cell.metadata.papermill metadata.language_info.version" notebooks/*.ipynb

lab: setup ## JupyterLab on the notebooks
	cd notebooks && ../$(BIN)/jupyter lab

report: setup ## render the executed notebooks of RUN as pages to open from disk, outputs/RUN/report/index.html
	@$(BIN)/python -m lib.report outputs/$(RUN)

bench: setup ## speed and memory, as ratios inside one run
	@for script in benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

kaggle: setup ## pack NB of RUN as a kernel and its weights as a data set: OWNER=name [GPU=1] [SET="key=value ..."]
	@$(BIN)/python -m lib.kaggle notebooks/$(NB).ipynb outputs/$(RUN) --owner '$(OWNER)' --profile params/$(PROFILE).yaml \
		--variant $(VARIANT) --folder build/kaggle $(if $(GPU),--gpu) $(addprefix --set ,$(SET)) --sources '$(SOURCES)'

data: setup ## download FSDKaggle2019 to DATA (data/fsd2019) by the kaggle command, or tell how to do it by hand
	@$(BIN)/python -m lib.download '$(or $(DATA),data/fsd2019)'

clean: ## remove caches and runs, but not outputs/findings
	find outputs -mindepth 1 -maxdepth 1 ! -name findings ! -name README.md -exec rm -rf {} +
	rm -rf .ruff_cache .hypothesis build
