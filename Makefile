# Every target makes what it needs on a fresh machine first (.ci/setup); nothing is assumed but make, sh and the network.

PYTEST_ARGS =
FUZZ_SECONDS = 60
run = .venv/bin/python

help:
	@echo "make demo        a story on four throw-away hosts of this machine; make demo-down ends it"
	@echo "make test        every test that this machine can run; as root: all of them"
	@echo "make bench       the figures of docs/benchmarks.md"
	@echo "make soak        the tests that take minutes, some of them with an aarch64 machine in qemu"
	@echo "make faults      killed, out of space, out of power at every point: the figures of docs/reliability.md"
	@echo "make fuzz        one minute of wrong input for every parser; longer: FUZZ_SECONDS=600"
	@echo "make lint        ruff, mypy --strict and the import contracts"

demo:
	@.ci/setup run
	@sh inventories/demo/story.sh

demo-down:
	@sh inventories/demo/story.sh down

test:
	@.ci/setup test
	@$(run) -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow" $(PYTEST_ARGS)

bench:
	@.ci/setup test
	@$(run) -m tests.benchmarks

soak:
	@.ci/setup soak
	@$(run) -m pytest -m slow $(PYTEST_ARGS)

faults:
	@.ci/setup test
	@$(run) -m tests.faults

fuzz:
	@.ci/setup test
	@$(run) -m tests.fuzz --seconds $(FUZZ_SECONDS)

lint:
	@.ci/setup test
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

.PHONY: help demo demo-down test bench soak faults fuzz lint
