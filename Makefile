# One environment (.venv) with everything, made from the versions in requirements.lock.
#   make quickstart   the whole path on the embedded pair
#   make test         what CI runs
# `make help` lists all targets. Sizes and folders are variables: make quickstart STEPS=500 RUN=runs/small

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.complete

# Sizes of the quickstart.
RUN ?= runs/quickstart
SAMPLES ?= 1
NEW_TOKENS ?= 96
STEPS ?= 3000
PROMPT ?= Write a Python function that returns the largest number of a list.

# Tests in parallel, one thread each: two that share cores slow each other down.
WORKERS ?= 2
PYTEST = OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/pytest -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install quickstart check test test-full coverage lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY) ## Make .venv with the library and everything to work on it

# torch first and alone, by the lock: a CPU build that pip is configured to find is then kept when the others ask for torch.
$(READY): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "radar-rl needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c requirements.lock torch
	$(BIN)/python -m pip install --quiet -c requirements.lock -e '.[train,hub,scale,tune,onnx,rl,dev]'
	touch $@

# A stage of the quickstart: what it is, the command as a user types it, its output, its seconds.
define stage
	@printf '\n\033[1m%s\033[0m\n$$ %s\n' '$(strip $(1))' '$(strip $(2))'
	@began=$$(date +%s); $(BIN)/$(strip $(2)) && printf '(%d s)\n' $$(($$(date +%s) - began))
endef
, := ,

quickstart: $(READY) ## Profile, collect, train three ways, evaluate, export, decode: within ten minutes on two cores
	$(call stage, 1/6  Profile: what each part of a round costs on this machine, \
	  radar-rl profile out=$(RUN)/hardware.json)
	$(call stage, 2/6  Collect: what every stopping depth would have brought at every position, \
	  radar-rl collect temperature=0.6 samples=$(SAMPLES) max_new_tokens=$(NEW_TOKENS) out=$(RUN)/traces)
	$(call stage, 3/6  Train: conservative Q-learning, \
	  radar-rl train algo=cql $(TRAINING) out=$(RUN)/cql)
	$(call stage, 3/6  Train: implicit Q-learning, \
	  radar-rl train algo=iql $(TRAINING) out=$(RUN)/iql)
	$(call stage, 3/6  Train: cloning of the clairvoyant oracle, \
	  radar-rl train algo=bc $(TRAINING) out=$(RUN)/bc)
	$(call stage, 4/6  Evaluate: exact replay on prompts that nobody trained on, \
	  radar-rl evaluate traces=$(RUN)/traces hardware=$(RUN)/hardware.json \
	  runs=[$(RUN)/cql$(,)$(RUN)/iql$(,)$(RUN)/bc] out=$(RUN)/evaluation)
	$(call stage, 5/6  Export: a folder of two small files, \
	  radar-rl export run=$(RUN)/cql out=$(RUN)/policy)
	$(call stage, 6/6  Decode: the same text$(,) with and without speculation, \
	  radar-rl decode policy=$(RUN)/policy max_new_tokens=$(NEW_TOKENS) --prompt "$(PROMPT)" --compare)
	@printf '\nThe picture: %s\n' $(RUN)/evaluation/comparison.png

TRAINING = traces=$(RUN)/traces hardware=$(RUN)/hardware.json steps=$(STEPS) overwrite=true

check: $(READY) ## Style, types, layers
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check ## Everything CI runs: checks and all but the slow tests
	$(PYTEST) -m 'not slow'

test-full: check ## All tests, slow ones included
	$(PYTEST)

coverage: check ## Like test, and which lines of the library no test runs (at least 90 % do)
	$(PYTEST) -m 'not slow' --cov

lock: $(READY) ## Write requirements.lock from .venv
	@{ sed -n '/^#/p' requirements.lock; \
	  $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/+[a-z0-9.]*$$//' | sort -f; \
	} > $(VENV)/lock && mv $(VENV)/lock requirements.lock

clean: ## Remove what was built and cached; .venv and runs/ stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
