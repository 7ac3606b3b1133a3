"""From options to what the fleet layer works on. Imports the heavy parts, so commands import it late."""

from __future__ import annotations

import os
from pathlib import Path

from reconciler.cli.ask import Passphrases, secret
from reconciler.cli.options import Choice, Login
from reconciler.cli.output import Output
from reconciler.fleet.project import Project, open_project
from reconciler.fleet.select import Selection
from reconciler.transport.connection import ConnectOptions


def project_of(login: Login, output: Output) -> Project:
    """Read the project; with -K, ask for the password first, so that nothing is asked later."""
    password = secret("sudo's password on the hosts: ", output) if login.ask_become_pass else None
    connect = ConnectOptions(user=login.user, become_password=password, ask_password=Passphrases(output))
    return open_project(login.inventory, cwd=Path.cwd(), environment=os.environ, connect=connect)


def selection_of(choice: Choice, default: str = "all") -> Selection:
    """The selection; `default` where no --hosts was given."""
    # An empty --hosts is an empty pattern, which is refused: behind it stands a variable of a script that was not set.
    hosts = default if choice.hosts is None else choice.hosts
    return Selection(hosts, choice.limit, choice.system, choice.users, choice.profiles)
