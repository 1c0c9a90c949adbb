# `make demo`, `make demo-images` and `make test` each need nothing but Python on a new machine.

PYTHON ?= python3
BIN := .venv/bin

PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
	--dist loadfile --no-loadscope-reorder

.PHONY: demo demo-images soak soak-faults soak-files soak-laws memory test test-slow check tests \
	fig8 clean

# The environment is complete once its stamp is newer than pyproject.toml.
.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# Train the classifier, run forward-backward on held-out data at 25 noise levels, draw the curves.
demo: .venv/.installed
	$(BIN)/lit-hier fit -c configs/demo_classifier.yaml
	$(BIN)/lit-hier predict -c configs/demo.yaml

# Train a diffusion model and a classifier of handwritten digits; run forward-backward on others.
demo-images: .venv/.installed
	$(BIN)/lit-hier fit -c configs/digits_ddpm.yaml
	$(BIN)/lit-hier fit -c configs/digits_classifier.yaml
	$(BIN)/lit-hier predict -c configs/digits.yaml

# Fig. 8 at the paper's size.
fig8: .venv/.installed
	$(BIN)/lit-hier fit -c configs/fig8_classifier.yaml
	$(BIN)/lit-hier predict -c configs/fig8.yaml

# Style, types and all tests but the slow ones: under five minutes on two cores.
test: check tests

# The slow tests: the demo at full size, two nodes of two processes, a short soak, Figs. 2 and 16.
test-slow: .venv/.installed
	$(PYTEST) -m slow

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tests: .venv/.installed
	$(PYTEST) -m "not slow"

# Long versions of the tests of faults, damaged files and configs, properties and memory. They take
# hours; each has its own target.
soak: soak-faults soak-files soak-laws memory

# Signals at random moments, full disks, concurrent runs, several processes and nodes.
soak-faults: .venv/.installed
	$(BIN)/python -W ignore tests/soak.py --trials 30

# Damaged configs and files of every kind.
soak-files: .venv/.installed
	$(BIN)/python tests/fuzz.py --inputs 2000

# Properties on twenty times as many examples, newly drawn each time.
soak-laws: .venv/.installed
	$(BIN)/python -m pytest tests -k properties --hypothesis-profile soak

# Peak memory of runs and of runs that are a hundred times as long.
memory: .venv/.installed
	$(BIN)/python tests/memory.py

clean:
	rm -rf .venv logs build *.egg-info
