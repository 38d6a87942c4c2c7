# Everything is set up by the first target that needs it: a virtual environment in .venv with
# hash-pinned packages, and the default model in models/.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AOBATCH := $(BIN)/aobatch
MODEL := smollm2-135m-instruct
AIRFLOW := 3.3.2
CLIENTS := "lm-eval[api]" langchain-openai litellm transformers
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check

COMPILE := CUSTOM_COMPILE_COMMAND='make lock' $(VENV)/lock/bin/pip-compile --quiet --upgrade \
	--generate-hashes --allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links \
	--no-emit-trusted-host --all-build-deps

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: run serve extract classify reviews test crash-test page-test airflow-test clients-test large-test lowest-test check bench translate model docs screenshot format lock clean distclean help

run: $(VENV)/run.stamp ## run the main job, jobs/poems.jsonl, on the default model
	$(AOBATCH) run jobs/poems.jsonl
	@echo "the first answers:" && head -n 3 jobs/poems.out.jsonl

serve: $(VENV)/serve.stamp ## answer requests over HTTP on the default model, and say what to try
	$(AOBATCH) serve

translate: $(VENV)/run.stamp ## translate the sentences of jobs/translate.jsonl
	$(AOBATCH) run jobs/translate.jsonl

extract: $(VENV)/run.stamp ## read names, dates and amounts out of texts, as JSON of a schema
	$(AOBATCH) run jobs/extract.jsonl --default response_format=@jobs/extract.schema.json
	@python3 jobs/library/accuracy.py jobs/extract.jsonl jobs/extract.out.jsonl

classify: $(VENV)/run.stamp ## tell good reviews from bad ones, in one word
	$(AOBATCH) run jobs/classify.jsonl
	@python3 jobs/library/accuracy.py jobs/classify.jsonl jobs/classify.out.jsonl

reviews: $(VENV)/run.stamp ## tell good reviews of jobs/reviews.csv from bad ones, by a template
	$(AOBATCH) run jobs/reviews.csv --template @jobs/reviews.prompt.txt --keep place,year \
		--column custom_id=id --default temperature=0 \
		--default 'structured_outputs={"choice":[" good"," bad"]}'
	@cut -d, -f1,3,9,10 jobs/reviews.out.csv

bench: $(VENV)/run.stamp ## measure tokens a second on this machine
	$(AOBATCH) bench

test: $(VENV)/dev.stamp model ## run the whole test suite
	$(BIN)/python -m pytest --numprocesses auto --dist loadgroup

crash-test: $(VENV)/dev.stamp model ## kill, stop, starve and fuzz jobs for a long time
	$(BIN)/python -m pytest -m long

airflow-test: $(VENV)/dev.stamp $(VENV)/airflow.stamp ## run jobs/airflow in a real Airflow
	$(BIN)/python -m pytest tests/airflow/dag_run.py

lowest-test: $(VENV)/bin/pip ## run a job with the lowest versions of packages that are said to do
	$(BIN)/python tests/lowest_versions.py $(VENV)/lowest

clients-test: $(VENV)/dev.stamp $(VENV)/clients.stamp model ## ask a server by real clients, from PyPI and npm
	$(BIN)/python -m pytest tests/clients/clients_run.py

large-test: $(VENV)/dev.stamp model ## convert and run models of 1, 3 and 8 billion weights; takes 60 GB
	$(BIN)/python -m pytest -s tests/long/large_run.py

check: $(VENV)/dev.stamp ## check format, style, types, layers and docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/interrogate --quiet tests
	$(BIN)/python -m pytest -q tests/test_architecture.py tests/test_docs.py

model: $(VENV)/run.stamp ## fetch and convert the default model, for use and as reference
	$(AOBATCH) models pull $(MODEL)
	$(AOBATCH) models pull $(MODEL) --precision fp32

docs: $(VENV)/dev.stamp ## write docs/reference.md from the code
	$(BIN)/python tests/docs_tables.py

screenshot: $(VENV)/dev.stamp model ## draw docs/run.svg, a run of the main job on a terminal
	$(BIN)/python tests/screenshot.py

bits-test: $(VENV)/dev.stamp $(VENV)/zig.stamp model ## compute the same bits as other processors, in qemu
	ZIG="$(VENV)/zig/bin/python -m ziglang" $(BIN)/python -m pytest -m "long or not long" tests/kernels/test_bits.py

page-test: $(VENV)/dev.stamp ## look at the report's page in Chromium, where it is installed
	$(BIN)/python -m pytest -m browser

format: $(VENV)/dev.stamp ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/bin/pip ## pin the newest packages that fit
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/pip install --quiet --disable-pip-version-check pip-tools
	$(COMPILE) --output-file=requirements.txt pyproject.toml
	$(COMPILE) --extra=dev --output-file=requirements-dev.txt pyproject.toml

clean: ## remove outputs, state and caches; keep .venv and models
	rm -rf jobs/*.out.* build dist .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find batch tests -name __pycache__ -prune -exec rm -rf {} +

distclean: clean ## remove .venv and the converted models as well
	rm -rf $(VENV) models/*/

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "aobatch needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements.txt pyproject.toml | $(VENV)/bin/pip
	$(INSTALL) --require-hashes --requirement requirements.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/serve.stamp: $(VENV)/run.stamp
	$(INSTALL) --no-build-isolation --editable '.[serve]'
	@touch $@

$(VENV)/dev.stamp: requirements-dev.txt $(VENV)/run.stamp
	$(INSTALL) --require-hashes --requirement requirements-dev.txt
	@touch $@

$(VENV)/zig.stamp: | $(VENV)/bin/pip
	@command -v qemu-aarch64 >/dev/null || command -v qemu-aarch64-static >/dev/null || \
		{ echo "bits-test needs qemu's user mode: apt install qemu-user-static"; exit 1; }
	$(PYTHON) -m venv $(VENV)/zig
	$(VENV)/zig/bin/pip install --quiet --disable-pip-version-check ziglang
	@touch $@

$(VENV)/clients.stamp: | $(VENV)/bin/pip
	$(PYTHON) -m venv $(VENV)/clients
	$(VENV)/clients/bin/pip install --quiet --disable-pip-version-check $(CLIENTS)
	mkdir -p $(VENV)/clients-node && cd $(VENV)/clients-node && npm install --silent openai
	@touch $@

$(VENV)/airflow.stamp: | $(VENV)/bin/pip
	$(PYTHON) -m venv $(VENV)/airflow
	$(VENV)/airflow/bin/pip install --quiet --disable-pip-version-check "apache-airflow==$(AIRFLOW)"
	@touch $@
