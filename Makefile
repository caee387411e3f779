# Everything runs in a virtual environment of its own; nothing but Python 3.11 is needed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Two compute threads on a busy core are many times slower than one; the engines bring their own workers.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow lint bench bench-precision federation clean install install-dev

demo: install
	$(BIN)/fedsim run experiments/configs/quickstart.toml $(if $(OUT),--out $(OUT))

test: install-test
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: install-test
	$(BIN)/python -m pytest -n 2 -m slow

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install-bench
	$(BIN)/python -m experiments.benchmarks $(BENCH)

bench-precision: install
	$(BIN)/python -m experiments.benchmarks.precision

federation: install
	$(BIN)/python -m experiments.flower.federation --set data.clients=4

.PHONY: reproduce-dlg
reproduce-dlg: install
	$(BIN)/python -m experiments.reproduce.dlg_single

.PHONY: reproduce-inverting-gradients
reproduce-inverting-gradients: install
	$(BIN)/python -m experiments.reproduce.inverting_gradients

.PHONY: reproduce-labels
reproduce-labels: install
	$(BIN)/python -m experiments.reproduce.labels

.PHONY: reproduce-agic
reproduce-agic: install
	$(BIN)/python -m experiments.reproduce.agic --workers 2

.PHONY: reproduce-dlg-defences
reproduce-dlg-defences: install
	$(BIN)/python -m experiments.reproduce.dlg_defences --workers 2

.PHONY: reproduce-defences
reproduce-defences: install
	$(BIN)/python -m pip install --quiet --editable '.[dp]'
	$(BIN)/python -m experiments.reproduce.defences

.PHONY: reproduce-rgap
reproduce-rgap: install
	$(BIN)/python -m experiments.reproduce.rgap

.PHONY: reproduce-gidm
reproduce-gidm: install
	$(BIN)/python -m pip install --quiet --editable '.[diffusion]'
	$(BIN)/python -m experiments.reproduce.gidm

.PHONY: reproduce-gidm-plus
reproduce-gidm-plus: install
	$(BIN)/python -m pip install --quiet --editable '.[diffusion]'
	$(BIN)/python -m experiments.reproduce.gidm_plus

.PHONY: reproduce-federated-diffusion
reproduce-federated-diffusion: install
	$(BIN)/python -m pip install --quiet --editable '.[diffusion]'
	$(BIN)/python -m experiments.reproduce.federated_diffusion --workers 2

.PHONY: reproduce-dmcmc
reproduce-dmcmc: install
	$(BIN)/python -m pip install --quiet --editable '.[diffusion]'
	$(BIN)/python -m experiments.reproduce.dmcmc

.PHONY: reproduce-sfddm
reproduce-sfddm: install
	$(BIN)/python -m pip install --quiet --editable '.[diffusion]'
	$(BIN)/python -m experiments.reproduce.sfddm

.PHONY: reproduce-leakage-over-training
reproduce-leakage-over-training: install
	$(BIN)/python -m experiments.reproduce.leakage_over_training

.PHONY: reproduce-shapley-cost
reproduce-shapley-cost: install
	$(BIN)/python -m experiments.reproduce.shapley_cost

.PHONY: reproduce-mavericks
reproduce-mavericks: install
	$(BIN)/python -m experiments.reproduce.mavericks --workers 2

.PHONY: reproduce-shapley-fairness
reproduce-shapley-fairness: install
	$(BIN)/python -m experiments.reproduce.shapley_fairness --workers 2

.PHONY: reproduce-exposure
reproduce-exposure: install
	$(BIN)/python -m experiments.reproduce.exposure --workers 2

# breaching and its dependencies stay apart: nothing else here needs them.
.PHONY: compare-breaching
compare-breaching: install .venv-breaching/installed
	$(BIN)/python -m experiments.reproduce.compare_breaching --breaching .venv-breaching/bin/python --compiled

# The same PyTorch on both sides, or the comparison would be one of PyTorches.
.venv-breaching/installed: | $(VENV)/installed
	$(PYTHON) -m venv .venv-breaching
	torch=$$($(BIN)/python -c 'import torch; print(torch.__version__.split("+")[0])') && \
		.venv-breaching/bin/python -m pip install --quiet breaching==0.1.2 safetensors torch==$$torch
	touch $@

clean:
	rm -rf $(VENV) .venv-breaching build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

# A stamp a kind of installation, made anew when the dependencies change.
.PHONY: install-test install-bench
install: $(VENV)/installed
install-test: $(VENV)/installed-test
install-dev: $(VENV)/installed-dev
install-bench: $(VENV)/installed-bench

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedsim needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/installed

$(VENV)/installed-dev: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/installed $(VENV)/installed-test

# Who cannot be installed here is named in the tables; the others are measured.
$(VENV)/installed-bench: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]' || $(BIN)/python -m pip install --quiet --editable '.[ray]'
	touch $@ $(VENV)/installed
