# Everything that a newcomer needs: `make help` lists it. Only Python >= 3.10 and make are expected.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= book,test,api
# The torch release that was tested; `make lock` holds every other package to it.
TORCH ?= 2.13.0

# What `make lock` may change: empty for only what pyproject.toml forces.
UPGRADE ?= --upgrade

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# On Linux pip's default build of PyTorch brings gigabytes of CUDA packages. Without an
# NVIDIA driver this prints the index of the builds for CPUs, if that answers.
define CPU_INDEX
import os, shutil, sys, threading, urllib.request
index, answers = "https://download.pytorch.org/whl/cpu", []
def ask():
    try:
        answers.append(urllib.request.urlopen(index + "/torch/", timeout=3).close())
    except OSError:
        pass
named = os.environ.get("PIP_INDEX_URL", "") + os.environ.get("PIP_EXTRA_INDEX_URL", "")
driver = os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi")
if sys.platform == "linux" and not driver and "pytorch.org" not in named:
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(3)
    print(index if answers else "")
    if not answers:
        print("No answer from", index + ": pip takes its default build of PyTorch", file=sys.stderr)
endef
export CPU_INDEX

.DEFAULT_GOAL := help
.PHONY: help install model test book pdf classroom lint format lock results clean

help: ## list these commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed, this is " + sys.version.split()[0] + ": name another with make PYTHON=python3.12")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python has no venv module: install it first (Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@test -x $(BIN)/python || { echo "Creating the virtual environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@index=$$($(PYTHON) -c "$$CPU_INDEX"); \
	echo "Installing the packages of constraints.txt into $(VENV)$${index:+, PyTorch for the CPU}: a few minutes, without a word"; \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $${index:+--extra-index-url $$index} \
		--constraint constraints.txt --editable '.[$(EXTRAS)]'
	@$(BIN)/python -m pip check
	@touch $@

install: $(INSTALLED) model ## create .venv, install the tested versions, fetch the embedded model

model: $(INSTALLED)
	@$(BIN)/python -m chapterlib model

test: install ## every notebook, then the unit tests with coverage
	$(BIN)/python -m pytest --nbmake notebooks/
	$(BIN)/python -m pytest -m "" --cov

book: install ## build the book into book/_build/html (runs the notebooks that have not run yet)
	$(BIN)/jupyter-book build book/ -n -W --keep-going
	@echo "Open book/_build/html/index.html"

pdf: book ## the whole book as one file, build/book.pdf (needs Chromium)
	$(BIN)/python book/_ext/pdf.py book/_build/html build/book.pdf

classroom: $(INSTALLED) ## the chapters without solutions, for a class, into build/classroom
	$(BIN)/python book/_ext/classroom.py build/classroom

lint: $(INSTALLED) ## ruff, mypy, codespell, notebooks without outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

format: $(INSTALLED) ## mend what can be mended by a program
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb

lock: ## resolve pyproject.toml anew into constraints.txt, for all systems and Python >= 3.10
	test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/python -m pip install --quiet uv; }
	echo 'torch==$(TORCH)' > .venv-lock/held.txt
	cp constraints.txt .venv-lock/resolved.txt
	.venv-lock/bin/uv pip compile pyproject.toml --universal --python-version 3.10 $(UPGRADE) --quiet \
		--extra book --extra test --extra api --constraint .venv-lock/held.txt \
		--no-header --no-annotate --output-file .venv-lock/resolved.txt
	{ echo '# The tested versions, for every system and Python >= 3.10: made by `make lock`, not by hand.'; \
	  grep -vE '^(nvidia-|cuda-|triton)' .venv-lock/resolved.txt; } > constraints.txt

results: install ## measure the runs whose records are missing or out of date (hours) and draw the README's figure
	$(BIN)/python -m chapterlib measure

clean: ## remove what was built (the virtual environment and the user cache stay)
	rm -rf book/_build .jupyter_cache .pytest_cache .ruff_cache .mypy_cache .coverage .hypothesis build dist
