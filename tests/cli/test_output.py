"""A line that is read from whoever is asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

# More than select() takes: a large fleet is logged in to when the question comes.
MANY = """
import os, resource
MOST = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(MOST, 2048), MOST))
logins = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
"""
ASK = """
from reconciler.cli.output import Output
print("read", Output().prompt("Go on? "))
"""
RUN = """
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport.connection import ConnectOptions
from reconciler.transport.local import LocalConnection
channel = LocalConnection(ConnectionSettings("here"), ConnectOptions()).start(["cat"], False)
assert channel.writable()
channel.write(b"yes", 5)
print("read", channel.read(5)[1].decode())
channel.close()
"""


@pytest.mark.parametrize("work", [ASK, RUN], ids=["a question", "this machine as a host"])
def test_it_works_with_more_open_files_than_select_takes(work: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY + work], input="yes\n", capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout.strip(), done.returncode) == ("read yes", 0), done.stderr
