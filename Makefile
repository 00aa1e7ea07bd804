# `make book` and `make test` need Python 3.11 or later, make and git; all else goes into .venv. The tests open
# the pages in a browser where Chromium is installed, and check their accessibility where npm is.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := book

PYTHON ?= python3
PROFILE ?= laptop
ARGS ?=
BUILD := $${ICL_BUILD:-_build}
VENV := .venv/.installed
AXE := node_modules/.package-lock.json
RUN := .venv/bin/python -m

.PHONY: help book paper-profile chapter plan notebooks test check verdicts bench lint lock clean distclean

help:  ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/make \1 - \2/p' $(MAKEFILE_LIST)

book: $(VENV)  ## run the chapters that changed and build the pages (PROFILE=smoke, laptop or paper)
	@$(RUN) icl_book.build build --profile "$(PROFILE)"

paper-profile: $(VENV)  ## the book at the papers' sizes, its results kept for commit (takes an accelerator)
	@$(RUN) icl_book.build build --profile paper
	mkdir -p book/data/paper_profile
	cp "$(BUILD)"/paper/results/{0[4-9],1[0-4]}_*.json book/data/paper_profile/

chapter: $(VENV)  ## run one chapter with papermill's flags (CHAPTER=01_task ARGS="-p sigma 0.5")
	@$(RUN) icl_book.build run "$(CHAPTER)" $(ARGS)

plan: $(VENV)  ## list the trainings that the store lacks (PROFILE=smoke, laptop or paper)
	@$(RUN) icl_book.build plan --profile "$(PROFILE)"

notebooks: $(VENV)  ## write every chapter as a plain notebook, not executed
	@$(RUN) icl_book.build notebooks

test: $(VENV) $(AXE)  ## run all tests (ARGS go to pytest)
	@$(RUN) pytest $(ARGS)

check: $(VENV) $(AXE)  ## compare the verdicts of `make book` with those committed, test its pages in a browser
	@$(RUN) icl_book.build verdicts --profile "$(PROFILE)"
	@ICL_PAGES="$(BUILD)/$(PROFILE)/html" $(RUN) pytest -m browser $(ARGS)

verdicts: $(VENV)  ## commit to the verdicts that `make book` found: writes book/verdicts.toml
	@$(RUN) icl_book.build verdicts --write

bench: $(VENV)  ## time the fast paths against the plain ones (ARGS go to benchmarks/speed.py)
	@TQDM_DISABLE=1 .venv/bin/python benchmarks/speed.py $(ARGS)

lint: $(VENV)  ## check the code's style, that of the chapters too
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) icl_book.build notebooks > /dev/null
	@$(RUN) ruff check --no-respect-gitignore "$(BUILD)"/notebooks/*.ipynb

# Some machines install a build of torch without CUDA, others (PyPI's, on Linux) bring CUDA with it:
# the lock names torch alone and leaves CUDA's packages to it.
lock:  ## pin every package again after an edit of requirements.txt
	@folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(PYTHON) -m venv "$$folder"; \
	"$$folder/bin/pip" install --quiet uv; \
	"$$folder/bin/uv" pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	  --no-annotate --no-header requirements.txt > "$$folder/lock"; \
	{ echo "# Every package of the project, pinned: made from requirements.txt by \`make lock\`."; \
	  sed -E '/^(nvidia|cuda|triton)/d' "$$folder/lock"; } > requirements.lock

clean:  ## remove what was built (the virtual environment and the trained models stay)
	rm -rf "$(BUILD)"

distclean: clean  ## remove the virtual environment and the trained models too
	rm -rf .venv .cache node_modules

# Made anew when the lock changes. A stamp comes last, so that a broken installation is done again.
.venv/.locked: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "this book needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) --version 2>&1 || true):" \
	    "name another one, as in make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install --disable-pip-version-check --quiet -r requirements.lock
	@touch $@

$(VENV): .venv/.locked pyproject.toml requirements.txt
	.venv/bin/pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

# axe-core, for the tests of the pages. Without it those that need it are skipped, and say so.
$(AXE): package.json package-lock.json
	@if command -v npm > /dev/null && npm ci --loglevel=error; then touch $@; \
	else echo "axe-core was not installed (it takes npm): the tests of accessibility are skipped" >&2; fi
