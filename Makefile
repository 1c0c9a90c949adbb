# `make demo`, `make demo-images` and `make test` each need nothing but Python on a new machine.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
	--dist loadfile --no-loadscope-reorder

.PHONY: demo demo-images gpu soak soak-faults soak-files soak-laws memory test test-slow test-lowest \
	test-newest check tests fig8 wheel docs sanitize clean

# What an installation is built from: when any of it changes, the environment is updated, and with
# it the native kernel.
KERNEL := lit_hier/inference/kernel_sources.py $(wildcard lit_hier/inference/native/*)

$(VENV)/.installed: pyproject.toml setup.py $(KERNEL)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev,photographs]'
	touch $@

# Train the classifier, run forward-backward on held-out data at 25 noise levels, draw the curves.
demo: $(VENV)/.installed
	$(BIN)/lit-hier fit -c configs/demo_classifier.yaml
	$(BIN)/lit-hier predict -c configs/demo.yaml

# Train a diffusion model and a classifier of handwritten digits; run forward-backward on others.
demo-images: $(VENV)/.installed
	$(BIN)/lit-hier fit -c configs/digits_ddpm.yaml
	$(BIN)/lit-hier fit -c configs/digits_classifier.yaml
	$(BIN)/lit-hier predict -c configs/digits.yaml

# Fig. 8 at the paper's size.
fig8: $(VENV)/.installed
	$(BIN)/lit-hier fit -c configs/fig8_classifier.yaml
	$(BIN)/lit-hier predict -c configs/fig8.yaml

# Everything that needs a GPU, correctness first, then speed: under eight minutes; one table, also in
# logs/gpu. PYTHON must have the packages (one line names those that it lacks); nothing is installed.
# Options of `benchmarks/gpu`, as in `make gpu OPTIONS='--only speed'`.
gpu:
	$(PYTHON) benchmarks/gpu $(OPTIONS)

# Style, types and all tests but the slow ones: under five minutes on two cores.
test: check tests

# The slow tests: the demo at full size, two nodes of two processes, a short soak, Figs. 2 and 16.
test-slow: $(VENV)/.installed
	$(PYTEST) -m slow

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

tests: $(VENV)/.installed
	$(PYTEST) -m "not slow"

# `make test` with the newest versions that pyproject.toml admits, and the same tests with the lowest
# ones, each in a new environment. Style and types are checked with the newest versions only, as
# annotations of libraries change.
test-lowest: RESOLUTION := lowest-direct
test-lowest: TARGET := tests
test-newest: RESOLUTION := highest
test-newest: TARGET := test
test-lowest test-newest: test-%:
	$(PYTHON) -m venv --clear .venv-uv
	.venv-uv/bin/python -m pip install --quiet uv
	.venv-uv/bin/uv venv --quiet --clear --python $(PYTHON) .venv-$*
	.venv-uv/bin/uv pip install --quiet --python .venv-$* --resolution $(RESOLUTION) \
		--editable '.[dev,photographs]'
	touch .venv-$*/.installed
	$(MAKE) $(TARGET) VENV=.venv-$*

# Long versions of the tests of faults, damaged files and configs, properties and memory. They take
# hours; each has its own target.
soak: soak-faults soak-files soak-laws memory

# Signals at random moments, full disks, concurrent runs, several processes and nodes.
soak-faults: $(VENV)/.installed
	$(BIN)/python -W ignore tests/soak.py --trials 30

# Hostile configs and files of every kind; the report goes into docs/promises.md.
soak-files: $(VENV)/.installed
	$(BIN)/python -W ignore tests/fuzz.py --inputs 2000 --write docs/promises.md

# Properties on twenty times as many examples, newly drawn each time.
soak-laws: $(VENV)/.installed
	$(BIN)/python -m pytest tests -k properties --hypothesis-profile soak

# Peak memory of runs and of runs that are a hundred times as long.
memory: $(VENV)/.installed
	$(BIN)/python tests/memory.py

# The documentation, into docs/_build/html; a warning is an error. Only the installation of sphinx needs a
# network.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env --builder html \
		docs docs/_build/html

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

# Wheel and source distribution, into dist/.
wheel: $(VENV)/.installed
	rm -rf build dist
	$(BIN)/python -m build

# Build the kernel with warnings as errors and with the sanitizers of addresses and undefined
# behavior, and run its tests; nothing is installed. Python is built without sanitizers, so their
# library is preloaded, and that of C++, whose exceptions they intercept; leaks in Python are not
# reported. LIT_HIER_KERNEL=0 would skip the tests, so it is unset.
SANITIZE := -Wall -Wextra -Werror -g -fsanitize=address,undefined -fno-sanitize-recover=all
SANITIZED := build/sanitize
library = $(shell $${CC:-cc} -print-file-name=$(1))
sanitize: $(VENV)/.installed
	rm -rf $(SANITIZED)
	CFLAGS="$(SANITIZE)" LDFLAGS="-fsanitize=address,undefined" $(BIN)/python setup.py --quiet \
		build_ext --build-lib $(SANITIZED) --build-temp $(SANITIZED)/objects
	env -u LIT_HIER_KERNEL LD_PRELOAD="$(call library,libasan.so) $(call library,libstdc++.so)" \
		ASAN_OPTIONS=detect_leaks=0 \
		LIT_HIER_TEST_KERNELS=$(SANITIZED)/lit_hier/inference/native \
		$(BIN)/python -m pytest tests/test_inference_kernel.py

clean:
	rm -rf .venv .venv-* logs build dist docs/_build docs/api *.egg-info lit_hier/inference/native/kernel_*.so
