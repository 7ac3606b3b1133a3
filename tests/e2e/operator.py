"""An operator at a controller: a project, a home and a store of their own; commands typed as a person types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.hosts.host import Fleet
from tests.oracle import RealNix

Completed = subprocess.CompletedProcess[str]

# Six small packages; `greet` and `words` come in two versions, `greet` is made from `words`.
RECIPES = {
    "words": """
versions:
  "1.0": {}
  "2.0": {}
toolchain: host
build: |
  mkdir -p $out/share
  echo "hello from words $version" > $out/share/words
""",
    "greet": """
versions:
  "1.0": {inputs: [words@1.0]}
  "2.0": {inputs: [words@2.0]}
toolchain: host
build: |
  mkdir -p $out/bin
  printf '#!/bin/sh\\ncat %s/share/words\\n' "$words" > $out/bin/greet
  chmod 755 $out/bin/greet
""",
    "tally": """
version: 1.0
toolchain: host
build: |
  mkdir -p $out/bin $out/share/doc
  printf '#!/bin/sh\\necho tally\\n' > $out/bin/tally
  chmod 755 $out/bin/tally
  echo tally > $out/share/doc/tally
""",
    "broken": """
version: 1.0
toolchain: host
build: |
  echo "this cannot be built"
  exit 1
""",
    "slow": """
version: 1.0
toolchain: host
build: |
  mkdir -p $out/share
  head -c 60000000 /dev/zero > $out/share/zeros
  head -c 40000000 /dev/urandom > $out/share/noise
""",
}


@dataclass
class Operator:
    """`inventory` holds hosts.yml of the fleet; `home` and `store` are below the test's own directory."""

    directory: Path
    fleet: Fleet
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home = self.directory / "home"
        self.store = self.directory / "store"
        self.home.mkdir(exist_ok=True)
        packages = self.fleet.directory / "packages"
        packages.mkdir(exist_ok=True)
        for name, text in RECIPES.items():
            (packages / f"{name}.yml").write_text(text.lstrip())
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "RECONCILER_STORE": str(self.store),
            "RECONCILER_INVENTORY": str(self.fleet.directory / "hosts.yml"),
            **self.environment,
        }

    def want(self, desired: Mapping[str, Any], scope: str = "group_vars/all") -> None:
        """Write the desired state of a group or host."""
        file = self.fleet.directory / f"{scope}.yml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"desired": desired}))

    def popen(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "reconciler", *words],
            env=self.environment,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def killed(self, *words: str, there: Callable[[], bool]) -> None:
        """Type a command and kill it, and all that it has going on hosts, as soon as `there` holds."""
        process = self.popen(*words)
        deadline = time.monotonic() + 60
        while not there():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.002)
        process.kill()
        process.communicate()
        for host in self.fleet:
            host.kill_sessions()

    def run(self, *words: str, status: int = 0, timeout: float = 180) -> Completed:
        """Type a command; the test fails, showing everything, when it does not exit with `status`."""
        with self.popen(*words) as process:
            out, err = process.communicate(timeout=timeout)
        assert process.returncode == status, f"reconciler {' '.join(words)}: {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return Completed(words, process.returncode, out, err)

    def json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", status=status).stdout)

    def verify(self) -> None:
        """Real Nix finds every store of the controller and of the hosts as it should be."""
        for host in self.fleet:
            if host.pid:
                host.verify_store()
        if (self.store / "nix/var/nix/db/db.sqlite").exists():
            RealNix(self.store).verify()
