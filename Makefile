# Two commands matter: `make audit` and `make test`. Both build .venv by themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BENCH := .bench
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint requirements.lock
INSTALL_BENCH := $(INSTALL:$(BIN)/%=$(BENCH)/bin/%)
EDITABLE := --no-build-isolation --config-settings editable_mode=strict --editable
FOLDERS := trustsnn attacks defenses federated reports
SOURCES := $(shell find $(FOLDERS) -name '*.py' -o -name '*.cpp' -o -name '*.h' -o -path '*/templates/*')

.PHONY: audit test test-slow lint types docs bench results-attacks clean

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

# Trains what is to be measured unless it is there; CIFAR-10 and MNIST are looked for under TRUSTSNN_DATA.
bench: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/model.py --json runs/bench/model.json
	$(BENCH)/bin/python benchmarks/model.py --data mnist --json runs/bench/model-mnist.json
	for name in layer training accuracy inference attacks audit scaling batch_invariance; do \
		$(BENCH)/bin/python benchmarks/$$name.py --json runs/bench/$$name.json || exit 1; \
	done
	$(BENCH)/bin/python benchmarks/table.py speed

# Hours on two cores; what was computed is kept under runs/attacks, so that a killed one goes on.
results-attacks: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/model.py --json runs/bench/model.json
	$(BENCH)/bin/python benchmarks/model.py --data mnist --json runs/bench/model-mnist.json
	$(BENCH)/bin/python benchmarks/strength.py --threads 1 --json runs/attacks/strength-mnist.json
	$(BENCH)/bin/python benchmarks/strength.py --threads 1 --norm l2 --no-singles --json runs/attacks/strength-mnist-l2.json
	$(BENCH)/bin/python benchmarks/strength.py --threads 1 --data cifar10 --json runs/attacks/strength-cifar10.json
	for name in curves inherent poisson events honest; do \
		$(BENCH)/bin/python benchmarks/$$name.py --json runs/attacks/$$name.json || exit 1; \
	done
	$(BENCH)/bin/python benchmarks/table.py attacks

clean:
	rm -rf $(VENV) $(BENCH) build site *.egg-info

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

# The peers go in without their dependencies: those would bring torchvision, torchaudio and CUDA's torch, and an old requests.
# What they do import beyond trustsnn's dependencies is in benchmarks/requirements.txt; torch stays that of requirements.lock.
$(BENCH)/.installed: pyproject.toml requirements.lock benchmarks/requirements.txt $(SOURCES)
	test -x $(BENCH)/bin/pip || $(PYTHON) -m venv $(BENCH)
	$(INSTALL_BENCH) --upgrade 'setuptools>=77' wheel
	$(INSTALL_BENCH) $(EDITABLE) .
	$(INSTALL_BENCH) --requirement benchmarks/requirements.txt
	$(INSTALL_BENCH) --no-deps spikingjelly==2.0.0 snntorch==1.0.0 norse==1.1.0 torchattacks==3.5.1
	@touch $@
