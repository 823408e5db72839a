# Everything happens in a virtual environment that the first target makes.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
RUN_DIR ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
STEPS ?= 20000

.PHONY: demo test test-long lint docs bench bench-gpu bench-peers five robustness serve conformance clean

# A plain VAE, and an encoder that bounds train to hold; then both are attacked.
DEMO := --arch shallow --obs-var 0.01 --learning-rate 0.002

demo: $(VENV)/.installed
	$(BIN)/python -m training.fit --algo vae $(DEMO) --steps 2000 --run-dir $(RUN_DIR)/vae
	$(BIN)/python -m training.fit --algo certified_elbo $(DEMO) --steps 3500 \
	    --run-dir $(RUN_DIR)/certified_elbo
	$(BIN)/python -m training.compare $(RUN_DIR)/vae $(RUN_DIR)/certified_elbo \
	    --out $(RUN_DIR)/attacked.png

# What a file shares is made once; reordered, the longest file would come last.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m long -o faulthandler_timeout=3600

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck serving/container/*.sh
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec serving/compose.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/f*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config \
	    .github/ISSUE_TEMPLATE/config.yml

# The site, in build/site; a warning, such as of a link that leads nowhere, is an error.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -d build/doctrees docs build/site
	@echo "open build/site/index.html"

# Training steps, attacks and input, beside other libraries where `make bench-peers` was made.
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.train --against
	$(BIN)/python -m benchmarks.attack --against
	$(BIN)/python -m benchmarks.data

# What nobody has measured on a GPU: XLA and precisions beside the step as it is on a CPU, `conv` in
# batches of 64, and how long `strong` takes on all test images. A machine with a GPU, an hour.
bench-gpu: $(VENV)/.installed
	$(BIN)/python -m benchmarks.step_options --arch conv --algo vae se --json gpu/step_options.json
	$(BIN)/python -m benchmarks.train --arch conv --pgd-steps 5 --json gpu/train_conv.json
	$(BIN)/python -m training.fit --algo se --arch conv --pgd-steps 5 --obs-var 0.1 --steps 2000 \
	    --run-dir gpu/se
	bash -c "time $(BIN)/python -m training.evaluate gpu/se --budget strong --images 10000 \
	    --head linear --section robustness --epsilon 0.1 --out gpu/strong"

# Those libraries, in an environment of their own.
bench-peers: .venv-bench/.installed

# The five objectives at the defaults, one after the other; a stopped one goes on where it was.
five: $(VENV)/.installed
	for algo in vae avae se se_avae avae_ss; do \
	    dir=runs/five-$(STEPS)/$$algo; \
	    if [ -d $$dir ]; then set -- --resume; else set -- --algo $$algo --steps $(STEPS); fi; \
	    $(BIN)/python -m training.fit --run-dir $$dir "$$@" || exit; \
	done

# Two encoders, and how robust they are: the report in the README.
robustness: $(VENV)/.installed
	for run in "vae --steps 20000" "se_avae --steps 8000 --pgd-steps 5"; do \
	    set -- $$run; dir=runs/robustness/$$1; \
	    if [ -d $$dir ]; then set -- --resume; else set -- --algo "$$@" --obs-var 0.1; fi; \
	    $(BIN)/python -m training.fit --run-dir $$dir "$$@" || exit; \
	done
	$(BIN)/python -m training.evaluate runs/robustness/vae runs/robustness/se_avae \
	    --budget paper --out evaluations/robustness

# models/encoder, made of the newest demo where there is none: gRPC at 8500, REST at 8501, metrics.
serve: $(VENV)/.installed
	@[ -d models/encoder ] || { \
	    run=$$(ls -dt runs/demo-*/certified_elbo 2> /dev/null | head -n 1); \
	    [ -n "$$run" ] || { echo "no run to serve: make demo"; exit 2; }; \
	    $(BIN)/python -m serving.export $$run --to models/encoder; }
	$(BIN)/python -m serving.server --model_name=encoder --model_base_path=models/encoder \
	    --rest_api_port=8501 --enable_batching \
	    --batching_parameters_file=serving/configs/batching.txt \
	    --monitoring_config_file=serving/configs/monitoring.txt

# TensorFlow Serving's answers, row by row: of the local server, or of the one at
# GRPC=HOST:PORT REST=HOST:PORT (see tests/conformance/__init__.py).
conformance: $(VENV)/.installed-test
	SERVER_GRPC=$(GRPC) SERVER_REST=$(REST) $(BIN)/python -m pytest -m conformance tests/conformance

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.installed: setup.py $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet '.[tf]'
	touch $@

$(VENV)/.installed-test: setup.py $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet '.[test]'
	touch $@

$(VENV)/.installed-lint: setup.py $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet '.[lint]'
	touch $@

$(VENV)/.installed-docs: setup.py $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet '.[docs]'
	touch $@

.venv-bench/.installed: setup.py
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) .venv-bench
