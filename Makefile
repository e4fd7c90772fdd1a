# Words for people and CI: demo, test, check, bench; parts, up and down for the real servers.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m

.PHONY: demo test check bench bench-edge bench-policy parts up down loadtest lock format clean help

help:
	@echo "make demo      a livestream's arrivals into 1,000 viewers, in memory; nothing to install but Python"
	@echo "make test      everything, with a real Kafka, Redis, Prometheus, browser and stock SDKs"
	@echo "make check     format, lint, types, import layers, chart, generated pages"
	@echo "make bench     figures as JSON lines, compared with bench/baseline.json"
	@echo "make bench-edge  what one core delivers to 10,000 sessions, beside a bare C loop; needs gcc and zlib"
	@echo "make bench-policy  what thinning costs a message, and a room under ten times what it can take, on Kafka and Redis"
	@echo "make up        Kafka, Redis and an engine on them, in the background; make down ends them"
	@echo "make loadtest  locust: raw sockets and publishers, reconciled with the ledger"

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "fanout needs Python 3.11 or newer: make demo PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.runtime: .venv/.python requirements/runtime.txt pyproject.toml
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/runtime.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.venv/.dev: .venv/.runtime requirements/dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@touch $@

demo: .venv/.runtime
	$(BIN)/fanout demo $(DEMO)

parts: .venv/.dev
	$(RUN) scripts.parts install

test: parts
	$(BIN)/pytest $(PYTEST)

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(RUN) scripts.generate_proto --check
	$(RUN) scripts.generate_errors --check
	$(RUN) scripts.metrics_doc --check
	$(RUN) scripts.build_board --check
	$(RUN) scripts.draw_budget --check
	$(RUN) scripts.check_chart

bench: parts
	$(RUN) bench all

bench-edge: .venv/.runtime
	$(RUN) bench edge $(EDGE)

bench-policy: parts
	$(RUN) bench policy $(POLICY)
	$(RUN) bench overload --servers $(OVERLOAD)

loadtest: parts
	$(RUN) loadtest --scenario live_room

up: parts
	$(RUN) scripts.parts up

down:
	$(RUN) scripts.parts down

format: .venv/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .venv/.python
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --no-header --python-version 3.11 pyproject.toml -o requirements/runtime.txt
	$(BIN)/uv pip compile --quiet --no-header --python-version 3.11 --prerelease=if-necessary-or-explicit --group test --group check --group load --group boards \
		-c requirements/runtime.txt pyproject.toml -o requirements/dev.txt

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
