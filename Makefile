# What a newcomer needs: make run, then make demo in a second terminal; make test. Python >= 3.11 and make suffice.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DATA   ?= var

.PHONY: run demo test check lock clean

run: $(VENV)/.installed
	@exec $(BIN)/doorward serve --data $(DATA)

demo: $(VENV)/.installed
	@exec $(BIN)/doorward demo --data $(DATA)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Doorward needs Python 3.11 or newer; say which with make PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "Python's venv module is missing; on Debian: apt-get install python3-venv"; exit 1; }

# Everything comes from the lock file, by hash; the project itself is installed in place without fetching anything.
$(VENV)/.installed: $(VENV)/bin/python requirements.lock pyproject.toml
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed requirements-test.lock
	@echo "Installing what the tests need ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-test.lock
	@touch $@

# For maintainers: needs uv. The files hold versions and hashes, and no address that anything was fetched from.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --no-emit-find-links --extra embedded --extra build pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --no-emit-find-links --extra embedded --extra build --extra test -c requirements.lock pyproject.toml \
	  -o requirements-test.lock

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
