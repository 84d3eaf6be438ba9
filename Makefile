# `make demo` and `make test` each do all the set-up on a fresh Debian with Python 3.11 and make.
PYTHON ?= python3
BIN := .venv/bin
export RAY_AUTH_MODE ?= disabled
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: help install install-k8s demo test check check-k8s serve bench lab train clean

help: ## Say what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.venv/.installed: pyproject.toml constraints.txt tools/install.sh
	tools/install.sh "$(PYTHON)"
	touch $@

install: .venv/.installed ## Make .venv with everything in it

.venv-k8s/.installed: tools/k8s-requirements.txt tools/install_k8s_tools.sh
	tools/install_k8s_tools.sh "$(PYTHON)"
	touch $@

install-k8s: install .venv-k8s/.installed ## Make .venv-k8s with what manifests are checked with

demo: install ## Start the service, replay the embedded test runs, sum up
	$(BIN)/serveflow demo

test: install ## Run all tests but those of check-k8s
	tools/need.sh tshark
	tools/need.sh tcpdump
	tools/need.sh tcpreplay
	tools/need.sh curl
	tools/need.sh wget
	tools/need.sh redis-server
	tools/need.sh prometheus
	command -v ip >/dev/null || tools/need.sh --package iproute2
	$(BIN)/python -m pytest -n 2 --ignore=tests/k8s

check: install ## Lint, types, import arrows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_house.py

check-k8s: install-k8s ## Build and check what stands in k8s/, docker/, proto/ and monitoring/
	$(BIN)/python -m pytest -q tests/k8s

serve: install ## Serve on 127.0.0.1:8000 until Ctrl-C
	$(BIN)/serveflow serve

bench: install ## Measure the packet engine, the running service's rate, and latency
	$(BIN)/serveflow bench engine
	$(BIN)/serveflow bench service-rate
	$(BIN)/serveflow bench latency

lab: install ## Make the embedded captures anew (root)
	$(BIN)/pip install -q -c constraints.txt -e '.[lab]'
	$(BIN)/python -m lab --out lab/captures

LAB_RUNS := --captures lab/captures/train --labels lab/captures/train/labels.csv
train: install ## Train the embedded bundles anew
	$(BIN)/serveflow train $(LAB_RUNS) --gate margin --out models/embedded
	$(BIN)/serveflow train $(LAB_RUNS) --gate margin --operating-point accurate \
		--out models/embedded_accurate

clean: ## Remove what was built
	rm -rf .venv .venv-k8s build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
