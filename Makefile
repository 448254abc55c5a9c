# Two commands matter: `make audit` and `make test`. Both build .venv by themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BENCH := .bench
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint requirements.lock
INSTALL_BENCH := $(INSTALL:$(BIN)/%=$(BENCH)/bin/%)
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile
EDITABLE := --no-build-isolation --config-settings editable_mode=strict --editable
FOLDERS := trustsnn attacks defenses federated reports
SOURCES := $(shell find $(FOLDERS) -name '*.py' -o -name '*.cpp' -o -name '*.h' -o -path '*/templates/*')

.PHONY: audit test test-slow test-peer lint types docs bench clean \
	results-attacks results-core results-hardening results-hardware results-leakage results-federated

audit: $(VENV)/.installed
	rm -rf models/quickstart runs/quickstart
	$(BIN)/trustsnn train bptt --model conv --data digits --out models/quickstart
	$(BIN)/trustsnn audit models/quickstart --data digits --eps 0.05,0.1,0.2 --out runs/quickstart
	@echo "Open runs/quickstart/report.html in a browser."

test: $(VENV)/.dev
	$(BIN)/pytest $(PARALLEL)

test-slow: $(VENV)/.dev
	$(BIN)/pytest $(PARALLEL) -m slow

# Against other frameworks, in the environment of the benchmarks, which has none of what other tests import.
test-peer: $(BENCH)/.installed
	$(INSTALL_BENCH) pytest
	$(INSTALL_BENCH) --no-deps neurobench==2.3.0
	$(BENCH)/bin/python -m pytest -m peer -rs $$(grep -rl 'pytest.mark.peer' tests --include='*.py')

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	cd tests && ../$(BIN)/lint-imports --config ../pyproject.toml --no-cache

types: $(VENV)/.dev
	cd tests && ../$(BIN)/mypy --config-file ../pyproject.toml --package trustsnn

docs: $(VENV)/.dev
	$(INSTALL) pdoc
	$(BIN)/python docs/reference.py

# Trains what is to be measured unless it is there; CIFAR-10 and MNIST are looked for under TRUSTSNN_DATA.
bench: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/model.py --threads 1 --json docs/results/data/speed/model.json
	$(BENCH)/bin/python benchmarks/model.py --threads 1 --data mnist --json docs/results/data/speed/model-mnist.json
	for name in layer training accuracy inference attacks audit scaling batch_invariance; do \
		$(BENCH)/bin/python benchmarks/$$name.py --json docs/results/data/speed/$$name.json || exit 1; \
	done
	$(BENCH)/bin/python benchmarks/table.py speed

# Hours on two cores; what was computed is kept under runs, so that a killed one goes on.
results-attacks: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/model.py --threads 1 --json docs/results/data/speed/model.json
	$(BENCH)/bin/python benchmarks/model.py --threads 1 --data mnist --json docs/results/data/speed/model-mnist.json
	for eps in 0.07 0.1 0.15; do \
		$(BENCH)/bin/python benchmarks/strength.py --threads 1 --eps $$eps --json docs/results/data/attacks/strength-mnist-$$eps.json || exit 1; \
	done
	for eps in 1 1.5 2; do \
		$(BENCH)/bin/python benchmarks/strength.py --threads 1 --norm l2 --no-singles --samples 100 --chunk 50 --eps $$eps \
			--json docs/results/data/attacks/strength-mnist-l2-$$eps.json || exit 1; \
	done
	test -f models/bench-vgg9-quarter/manifest.json || $(BENCH)/bin/python -m trustsnn train bptt --model vgg9 --channels 0.25 --data cifar10 \
		--augment shift-flip --batch-size 64 --epochs 12 --threads 1 --out models/bench-vgg9-quarter
	for eps in 2 4 8; do \
		$(BENCH)/bin/python benchmarks/strength.py --threads 1 --data cifar10 --model models/bench-vgg9-quarter --eps $$eps/255 \
			--json docs/results/data/attacks/strength-cifar10-$$eps.json || exit 1; \
	done
	for eps in 2 4 8; do \
		$(BENCH)/bin/python benchmarks/strength.py --threads 1 --data cifar10 --chunk 100 --settle --eps $$eps/255 \
			--json docs/results/data/attacks/strength-cifar10-full-$$eps.json || exit 1; \
	done
	$(BENCH)/bin/python benchmarks/inherent.py --threads 1 --rate-steps 16 --json docs/results/data/attacks/inherent.json
	$(BENCH)/bin/python benchmarks/inherent.py --threads 1 --profile standard --steps 4,8,16,32 --leaks '' --rate-steps '' \
		--json docs/results/data/attacks/inherent-standard.json
	$(BENCH)/bin/python benchmarks/inherent.py --threads 1 --steps 4,8,16 --leaks '' --rate-steps '' --seeds 6 --eps 0.05,0.1 \
		--json docs/results/data/attacks/inherent-seeds.json
	$(BENCH)/bin/python benchmarks/long_runs.py --threads 1 --json docs/results/data/attacks/long_runs.json
	for name in curves poisson events honest; do \
		$(BENCH)/bin/python benchmarks/$$name.py --json docs/results/data/attacks/$$name.json || exit 1; \
	done
	$(BENCH)/bin/python benchmarks/table.py attacks

# Hours on two cores; goes on where a killed one stopped.
results-core: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/conversion.py --train 10000 --threads 1 --json docs/results/data/core/conversion-mnist.json
	$(BENCH)/bin/python benchmarks/conversion.py --train 10000 --levels 7 --bit-l1 0,1e-8,1e-7,1e-6 --steps 4 --threads 1 \
		--json docs/results/data/core/conversion-bits.json
	$(BENCH)/bin/python benchmarks/conversion.py --data cifar10 --network vgg9 --threads 1 --json docs/results/data/core/conversion-cifar10.json
	$(BENCH)/bin/python benchmarks/bitserial.py --train 10000 --steps 4,8 --threads 1 --json docs/results/data/core/bitserial-mnist.json
	$(BENCH)/bin/python benchmarks/calibration.py --threads 1 --data cifar10 --network vgg9 --train 10000 --test 2000 --epochs 6 \
		--augment shift-flip --steps 4,8,16 --json docs/results/data/core/calibration-cifar10.json
	$(BENCH)/bin/python benchmarks/calibration.py --threads 1 --test 2000 --epochs 3 --json docs/results/data/core/calibration-mnist.json
	$(BENCH)/bin/python benchmarks/hybrid.py --threads 1 --test 2000 --epochs 3 --steps 2,4 --seeds 0,1,2 --json docs/results/data/core/hybrid-mnist.json
	for seed in 0 1 2; do \
		$(BENCH)/bin/python benchmarks/hybrid.py --threads 1 --data cifar10 --network vgg9 --train 0 --epochs 10 --augment shift-flip \
			--steps 2,4 --seeds $$seed --json docs/results/data/core/hybrid-cifar10-$$seed.json || exit 1; \
	done
	$(BENCH)/bin/python benchmarks/sparse.py --threads 1 --alone 0.3 --json docs/results/data/core/sparse.json
	$(BENCH)/bin/python benchmarks/sparse.py --threads 1 --channels 1 --sparsities 0.95,0.98 --methods gradr,magnitude \
		--json docs/results/data/core/sparse-all.json
	$(BENCH)/bin/python benchmarks/onestep.py --threads 1 --train 60000 --test 10000 --epochs 3 --seeds 2 --json docs/results/data/core/onestep-mnist.json
	$(BENCH)/bin/python benchmarks/onestep.py --threads 1 --data cifar10 --train 15000 --test 3000 --epochs 20 --batch 64 --seeds 1 \
		--json docs/results/data/core/onestep-cifar10.json
	$(BENCH)/bin/python benchmarks/onestep.py --threads 1 --network onestep-rnn --channels 0.5 --train 1000 --test 1000 --seeds 1 \
		--rounds 3 --json docs/results/data/core/onestep-rnn.json
	$(BENCH)/bin/python benchmarks/architectures.py --threads 1 --minutes 10 --json docs/results/data/core/architectures.json
	$(BENCH)/bin/python benchmarks/temporal.py --threads 1 --json docs/results/data/core/temporal.json
	$(BENCH)/bin/python benchmarks/language.py --threads 1 --json docs/results/data/core/language.json
	$(BENCH)/bin/python benchmarks/table.py core

# Hours on two cores; goes on where a killed one stopped.
results-hardening: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/hardening.py --threads 1 --json docs/results/data/hardening/training-mnist.json
	$(BENCH)/bin/python benchmarks/hardening.py --threads 1 --channels 1 --recipes hire,at \
		--json docs/results/data/hardening/training-mnist-conv.json
	for recipe in hire at; do \
		$(BENCH)/bin/python benchmarks/hardening.py --threads 1 --profile full --test 100 --eps 0.1 --recipes $$recipe \
			--json docs/results/data/hardening/training-mnist-full-$$recipe.json || exit 1; \
	done
	$(BENCH)/bin/python benchmarks/hardening.py --threads 1 --data cifar10 --channels 0.25 --epochs 4 --eps 2/255,4/255 \
		--augment shift-flip --json docs/results/data/hardening/training-cifar10.json
	$(BENCH)/bin/python benchmarks/hardening.py --threads 1 --data cifar10 --network vgg9 --channels 0.25 --epochs 4 --eps 2/255,4/255 \
		--augment shift-flip --recipes hire,at --json docs/results/data/hardening/training-cifar10-vgg9.json
	$(BENCH)/bin/python benchmarks/robust_time.py --threads 1 --json docs/results/data/hardening/robust_time.json
	$(BENCH)/bin/python benchmarks/dp_audit.py --threads 1 --seeds 5 --json docs/results/data/hardening/dp_audit.json
	$(BENCH)/bin/python benchmarks/private.py --threads 1 --json docs/results/data/hardening/private.json
	$(BENCH)/bin/python benchmarks/certify.py --threads 1 --networks mlp --samples 200 --json docs/results/data/hardening/certify.json
	$(BENCH)/bin/python benchmarks/certify.py --threads 1 --networks conv:0.25 --samples 100 --json docs/results/data/hardening/certify-conv.json
	$(BENCH)/bin/python benchmarks/seal.py --threads 1 --json docs/results/data/hardening/seal.json
	$(BENCH)/bin/python benchmarks/table.py hardening

# Hours on two cores; goes on where a killed one stopped.
results-hardware: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/hardware.py --threads 1 --samples 250 --json docs/results/data/hardware/twins-mnist.json
	$(BENCH)/bin/python benchmarks/hardware.py --threads 1 --data cifar10 --channels 0.5 --samples 100 \
		--json docs/results/data/hardware/twins-cifar10.json
	$(BENCH)/bin/python benchmarks/hardware.py --threads 1 --samples 250 --twins speck:approximate=true,xylo:approximate=true \
		--json docs/results/data/hardware/twins-mnist-approximate.json
	$(BENCH)/bin/python benchmarks/hardware.py --threads 1 --data cifar10 --channels 0.5 --samples 100 \
		--twins speck:approximate=true,xylo:approximate=true --json docs/results/data/hardware/twins-cifar10-approximate.json
	for name in chips integrity energy peer_models; do \
		$(BENCH)/bin/python benchmarks/$$name.py --threads 1 --json docs/results/data/hardware/$$name.json || exit 1; \
	done
	$(BENCH)/bin/python benchmarks/table.py hardware

# Hours on two cores; goes on where a killed one stopped.
results-leakage: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/membership.py --threads 1 --json docs/results/data/leakage/membership-mnist.json
	$(BENCH)/bin/python benchmarks/membership.py --threads 1 --data cifar10 --pool 2400 --label-noise 0 --stop-at 0.98 \
		--json docs/results/data/leakage/membership-cifar10.json
	$(BENCH)/bin/python benchmarks/membership.py --threads 1 --private --pool 2400 --epochs 20 \
		--json docs/results/data/leakage/membership-private.json
	for name in shadows reconstruction gradients extraction attributes backdoor; do \
		$(BENCH)/bin/python benchmarks/$$name.py --threads 1 --json docs/results/data/leakage/$$name.json || exit 1; \
	done
	$(BENCH)/bin/python benchmarks/table.py leakage

# Hours on two cores; goes on where a killed one stopped.
results-federated: $(BENCH)/.installed
	$(BENCH)/bin/python benchmarks/federated.py --threads 1 --json docs/results/data/federated/training.json
	$(BENCH)/bin/python benchmarks/federated.py --threads 1 --channels 0.25 --rounds 10 --models 'SNN;ANN' \
		--cells 5:0.5,20:0.5,50:0.5,20:10,20:0.1 --json docs/results/data/federated/growth.json
	for name in poison guarantees; do \
		$(BENCH)/bin/python benchmarks/$$name.py --threads 1 --json docs/results/data/federated/$$name.json || exit 1; \
	done
	$(BENCH)/bin/python benchmarks/federated_cost.py --threads 1 --json docs/results/data/federated/cost.json
	$(BENCH)/bin/python benchmarks/table.py federated

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
	$(INSTALL) $(EDITABLE) '.[dev,dp,federated]'
	$(INSTALL) --no-deps torchattacks
	@touch $@

# The peers go in without their dependencies: those would bring torchvision, torchaudio and CUDA's torch, and an old requests.
# What they do import beyond trustsnn's dependencies is in benchmarks/requirements.txt; torch stays that of requirements.lock.
$(BENCH)/.installed: pyproject.toml requirements.lock benchmarks/requirements.txt $(SOURCES)
	test -x $(BENCH)/bin/pip || $(PYTHON) -m venv $(BENCH)
	$(INSTALL_BENCH) --upgrade 'setuptools>=77' wheel
	$(INSTALL_BENCH) $(EDITABLE) '.[federated]'
	$(INSTALL_BENCH) --requirement benchmarks/requirements.txt
	$(INSTALL_BENCH) --no-deps spikingjelly==2.0.0 snntorch==1.0.0 norse==1.1.0 sinabs==3.1.3 torchattacks==3.5.1
	@touch $@
