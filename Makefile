# Every target makes what it needs on a fresh machine first (.ci/setup); nothing is assumed but make, sh and the network.

PYTEST_ARGS =
run = .venv/bin/python

help:
	@echo "make demo        a story on four throw-away hosts of this machine; make demo-down ends it"
	@echo "make test        every test that this machine can run; as root: all of them"
	@echo "make bench       the figures of docs/benchmarks.md"
	@echo "make soak        the tests that take minutes"
	@echo "make lint        ruff, mypy --strict and the import contracts"

demo:
	@.ci/setup run
	@sh inventories/demo/story.sh

demo-down:
	@sh inventories/demo/story.sh down

test:
	@.ci/setup test
	@$(run) -m pytest -n auto --maxprocesses 8 -m "not slow" $(PYTEST_ARGS)

bench:
	@.ci/setup test
	@$(run) -m tests.benchmarks

soak:
	@.ci/setup test
	@$(run) -m pytest -m slow $(PYTEST_ARGS)

lint:
	@.ci/setup test
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

.PHONY: help demo demo-down test bench soak lint
