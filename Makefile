# Every target sets itself up in $(VENV). Needs Python 3.11 or newer, its venv module, and a network on first use.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.videoeff-dev
SOURCES := $(wildcard videoeff tests examples benchmarks hatch_build.py)
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq

# Loaded by its path: it needs nothing but the standard library.
NATIVE := $(BIN)/python -P videoeff/kernels/cpp/build.py
SANITIZED := $(VENV)/sanitized/_native.so

# Two pytest workers: one per core of a small machine. tests/conftest.py divides torch's threads between them.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup native demo test line-coverage sanitize coverage
.PHONY: check check-format check-lint check-types check-house format clean distclean

help:
	@echo "make demo       run the demonstration"
	@echo "make test       every check and every test"
	@echo "make line-coverage  every test, then each module's lines that none of them ran, the least covered first"
	@echo "make sanitize   the tests of the native kernels under the address and undefined-behaviour sanitizers"
	@echo "make check      format, lint, types and house rules only (make -k check: all that is wrong)"
	@echo "make coverage   convert and stream every torchvision model, and those of videoeff[coverage]; writes docs/coverage.md"
	@echo "make format     rewrite the sources in the house format"
	@echo "make setup      (re)build $(VENV) and the native kernels; the others call it"
	@echo "make native     compile the native kernels if their sources changed; the others call it"
	@echo "make clean      remove caches and build outputs (distclean: $(VENV) as well)"

setup: native

# torch and torchvision are resolved in one pip command, so that their versions fit each other.
$(STAMP): pyproject.toml
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  command -v $(PYTHON) >/dev/null || { \
	    echo "videoeff: '$(PYTHON)' not found. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python" >&2; \
	    exit 1; }; \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "videoeff: $$($(PYTHON) --version) is too old; 3.11 or newer is needed. Name one: make PYTHON=python3.12" >&2; \
	    exit 1; }; \
	  $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	    echo "videoeff: $(PYTHON) has no venv module. On Debian or Ubuntu: apt install python3-venv" >&2; \
	    exit 1; }; \
	  $(PYTHON) -m venv $(VENV); \
	fi
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "videoeff: $(VENV) holds $$($(BIN)/python --version); 3.11 or newer is needed. Remove it: make distclean" >&2; \
	  exit 1; }
	@echo "videoeff: installing into $(VENV) (the first time several GB: PyPI's torch carries CUDA; it also runs on the CPU)"
	@$(PIP) install -e ".[dev]" || { \
	  echo "videoeff: pip could not install the packages; its own message is above. Mend that and run make again" >&2; \
	  exit 1; }
	@touch $@

# Whether sources or flags changed is asked by content. Without a compiler the reference computes.
native: $(STAMP)
	@$(NATIVE) --if-changed --optional

demo: native
	@$(BIN)/videoeff demo

# Every torchvision model, and those of the libraries of videoeff[coverage] that are installed; two hours on two
# cores. Goes on where it stopped; `benchmarks/coverage.py --failed` repeats only what failed or differed.
coverage: native
	$(BIN)/python benchmarks/coverage.py --out docs/coverage.md --json benchmarks/results/coverage.json

# The same steps as .pre-commit-config.yaml; tests/project/test_house.py holds the two together.
check: check-format check-lint check-types check-house

check-format: $(STAMP)
	$(BIN)/ruff format --check $(SOURCES)

check-lint: $(STAMP)
	$(BIN)/ruff check $(SOURCES)

check-types: $(STAMP)
	$(BIN)/mypy

check-house: $(STAMP)
	$(BIN)/pytest -q -p no:cacheprovider tests/project/test_house.py

# `check` has run the house rules already. Triton reads its variable when it is imported: a run of its own.
test: check native
	$(BIN)/pytest -q -n $(WORKERS) --dist worksteal --durations=10 --ignore=tests/project/test_house.py
	TRITON_INTERPRET=1 $(BIN)/pytest -q -n $(WORKERS) --dist worksteal --durations=10 tests/kernels/triton/interpreted

# Slower than `test`, so with more time for each. Native code is not measured; what Triton's interpreter runs is.
line-coverage: native
	$(BIN)/pytest -q -n $(WORKERS) --dist worksteal --timeout 1200 --cov --cov-report=
	TRITON_INTERPRET=1 $(BIN)/pytest -q -n $(WORKERS) --dist worksteal --timeout 1200 --cov --cov-append --cov-report= \
	  tests/kernels/triton/interpreted
	$(BIN)/coverage report

# Preloaded: the library of the sanitizer and that of C++. PYTHONMALLOC shows it the memory of Python objects too.
sanitize: $(STAMP)
	$(NATIVE) --if-changed --sanitize address,undefined --out $(SANITIZED)
	LD_PRELOAD="$$($(NATIVE) --runtime --sanitize address,undefined)" PYTHONMALLOC=malloc \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 VIDEOEFF_NATIVE="$(abspath $(SANITIZED))" \
	  $(BIN)/pytest -q -n $(WORKERS) --dist worksteal -p no:cacheprovider tests/kernels/cpp/sanitized

format: $(STAMP)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf build dist $(VENV)/sanitized videoeff/kernels/cpp/_native.so .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage*
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
