# Two commands matter: `make audit` and `make test`. Both build .venv by themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint requirements.lock
EDITABLE := --no-build-isolation --config-settings editable_mode=strict --editable
FOLDERS := trustsnn attacks defenses federated reports
SOURCES := $(shell find $(FOLDERS) -name '*.py' -o -name '*.cpp' -o -name '*.h' -o -path '*/templates/*')

.PHONY: audit test test-slow lint types docs bench clean

audit: $(VENV)/.installed
	rm -rf models/quickstart runs/quickstart
	$(BIN)/trustsnn train bptt --model conv --data digits --out models/quickstart
	$(BIN)/trustsnn audit models/quickstart --data digits --eps 0.05,0.1,0.2 --out runs/quickstart
	@echo "Open runs/quickstart/report.html in a browser."

test: $(VENV)/.dev
	$(BIN)/pytest

test-slow: $(VENV)/.dev
	$(BIN)/pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd tests && ../$(BIN)/lint-imports --config ../pyproject.toml --no-cache

types: $(VENV)/.dev
	cd tests && ../$(BIN)/mypy --config-file ../pyproject.toml --package trustsnn

docs: $(VENV)/.dev
	$(INSTALL) pdoc
	cd tests && ../$(BIN)/pdoc --output-directory ../site trustsnn trustsnn.attacks trustsnn.reports

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/neurons.py
	$(BIN)/python benchmarks/batch_invariance.py

clean:
	rm -rf $(VENV) build site *.egg-info

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade 'setuptools>=77' wheel

$(VENV)/.installed: $(BIN)/pip pyproject.toml requirements.lock $(SOURCES)
	$(INSTALL) $(EDITABLE) .
	@touch $@

# torchattacks goes in last and without its dependencies: it claims an old requests and torchvision, and imports neither.
$(VENV)/.dev: $(VENV)/.installed
	$(INSTALL) $(EDITABLE) '.[dev]'
	$(INSTALL) --no-deps torchattacks
	@touch $@
