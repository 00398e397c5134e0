# Every target installs what it needs and says so; what is there already costs no time.
#
#   make lab     a three-node cluster in network namespaces, a fail-over seen by a client (needs root)
#   make test    format, lint, types, tests, a slice of the simulator
#
# Also: check, fix, alerts-e2e, image, sim, sim-compiled, fuzz, bench, rivals, lock, clean.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := check

PYTHON ?= python3
BIN := .venv/bin
SEEDS ?= 300
INPUTS ?= 1000000

# Debian packages: to run an agent and its lab; to test it.
RUN_PACKAGES := python3 python3-venv iproute2 nftables
TEST_PACKAGES := $(RUN_PACKAGES) tcpdump procps chromium fonts-dejavu-core curl libcap2-bin systemd-container
IMAGE_PACKAGES := buildah debootstrap
MONITORING := prometheus prometheus-alertmanager
TEMPLATES := /usr/share/prometheus/alertmanager
ROOT := $(if $(filter-out 0,$(shell id -u)),sudo)
RIVALS := keepalived ucarp corosync pacemaker pacemaker-cli-utils resource-agents

.PHONY: lab test check fix types tests alerts-e2e image sim sim-compiled mutate fuzz bench rivals lock clean

lab: .venv/.runs
	$(BIN)/molehill lab demo

test: check sim tests

# Nothing is changed.
check: .venv/.tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: .venv/.tests
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Tests that need root and network namespaces are skipped for others; the summary says which and why.
tests: .venv/.tests .tools/.monitoring
	PATH="$(CURDIR)/.tools:$$PATH" $(BIN)/python -m pytest

# From real agents through Prometheus and Alertmanager to a webhook: what pages, how soon, and what does not.
alerts-e2e: .venv/.tests .tools/.monitoring
	PATH="$(CURDIR)/.tools:$$PATH" $(BIN)/python -m pytest -v tests/alerts/test_end_to_end.py

# The Dockerfile, without a Docker daemon: buildah on a base that debootstrap makes (minutes, needs root).
image: .venv/.tests
	@packages="$(IMAGE_PACKAGES)"; $(apt)
	MOLEHILL_IMAGE=1 $(BIN)/python -m pytest -v -m image

# Every threshold, label and time of the alert rules changed once: a test has to notice.
mutate: .venv/.tests .tools/.monitoring
	PATH="$(CURDIR)/.tools:$$PATH" $(BIN)/python -m tests.alerts.mutate

sim: .venv/.tests
	$(BIN)/python -m tests.sim --seeds $(SEEDS)

# Three times as fast, after two minutes of compiling: for thousands of seeds (needs a C compiler and Python's headers).
sim-compiled: .venv/.tests
	$(BIN)/python -m tests.sim.compiled --seeds $(SEEDS)

fuzz: .venv/.tests
	$(BIN)/python -m tests.engines.fuzz_decoder --inputs $(INPUTS)

bench: .venv/.tests
	$(BIN)/python -m tests.bench

# What `python -m tests.bench --systems` measures beside this program (docs/rivals.md).
rivals: .tools/.rivals

# New versions of everything, hashed, without naming where they came from.
COMPILE := $(BIN)/pip-compile --quiet --upgrade --generate-hashes --all-build-deps --allow-unsafe --strip-extras \
  --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options
lock: .venv/.tests
	@echo "== resolving requirements.lock and requirements-dev.lock (a few minutes)"
	$(COMPILE) -o requirements.lock pyproject.toml
	$(COMPILE) --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

clean:
	rm -rf .venv .tools build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# What the targets above stand on. A stamp is renewed when what it was made from changes.

.venv/.runs: requirements.lock pyproject.toml
	@packages="$(RUN_PACKAGES)"; $(apt)
	@$(venv)
	@echo "== installing what molehill needs into .venv (requirements.lock)"
	@$(pip) --require-hashes -r requirements.lock
	@$(pip) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/.tests: requirements-dev.lock pyproject.toml
	@packages="$(TEST_PACKAGES)"; $(apt)
	@$(venv)
	@echo "== installing what molehill and its tests need into .venv (requirements-dev.lock)"
	@$(pip) --require-hashes -r requirements-dev.lock
	@$(pip) --no-deps --no-build-isolation --editable .
	@touch $@ .venv/.runs

# Prometheus and Alertmanager out of Debian's packages, without installing these: that would start servers. Debian's
# Alertmanager does not start without its templates where the package has them.
.tools/.monitoring:
	@mkdir -p .tools
	@echo "== unpacking Prometheus and Alertmanager into .tools"
	@cd .tools && { apt-get download -qq $(MONITORING) 2> /dev/null || { apt-get update -qq && apt-get download -qq $(MONITORING); }; } 2> /dev/null \
	  && for package in prometheus*.deb; do dpkg-deb --fsys-tarfile $$package | tar -x --strip-components=3 ./usr/bin; done \
  && { test -e $(TEMPLATES)/default.tmpl || { $(ROOT) mkdir -p $(TEMPLATES) \
    && dpkg-deb --fsys-tarfile prometheus-alertmanager*.deb | $(ROOT) tar -x -C / --wildcards '.$(TEMPLATES)/*.tmpl'; }; } && touch .monitoring \
	  || echo "they cannot be had: the tests that need them will be skipped"
	@rm -f .tools/*.deb

# Likewise, with what they need and this machine has not; each node of a benchmark lays the tree over its own /usr.
.tools/.rivals:
	@mkdir -p .tools/rivals/usr/{bin,sbin,lib,lib64} .tools/rivals-packages
	@for folder in bin sbin lib lib64; do ln -sfn usr/$$folder .tools/rivals/$$folder; done
	@echo "== unpacking $(RIVALS) into .tools/rivals"
	@apt-get update -qq
	@apt-get install -qq -y --download-only --no-install-recommends \
	  -o Dir::Cache::archives="$(CURDIR)/.tools/rivals-packages/" -o APT::Sandbox::User=root $(RIVALS) > /dev/null
	@for package in .tools/rivals-packages/*.deb; do \
	  test ! -e "$$package" || dpkg-deb --fsys-tarfile "$$package" | tar -x --keep-directory-symlink -C .tools/rivals; \
	done
	@rm -r .tools/rivals-packages
	@touch $@

pip := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input

venv = test -x $(BIN)/python || { echo "== making .venv"; $(PYTHON) -m venv .venv; }

# Installs those of $$packages that are missing: as root, or through sudo.
apt = missing=""; for package in $$packages; do \
    dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$package"; \
  done; \
  if [ -n "$$missing" ]; then \
    echo "== installing Debian packages:$$missing"; \
    if [ "$$(id -u)" = 0 ]; then run=; elif command -v sudo > /dev/null; then run=sudo; \
    else echo "not root and no sudo: ask root for: apt-get install$$missing" >&2; exit 1; fi; \
    export DEBIAN_FRONTEND=noninteractive; \
    $$run apt-get update -qq && $$run apt-get install -qq -y --no-install-recommends $$missing < /dev/null > /dev/null; \
  fi
