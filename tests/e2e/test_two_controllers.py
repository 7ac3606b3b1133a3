"""Two people at controllers of their own, with the same inventory and lock, plan the same store paths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_writable
from tests.hosts.fixture import MakeFleet
from tests.hosts.host import Fleet

pytestmark = pytest.mark.root

RECIPES = {
    "words": "version: 1.0\ntoolchain: host\nsource: {path: words}\nbuild: cp -r . $out\n",
    "greetings": (
        "version: 1.0\ndescription: Grüße\ntoolchain: debian-12\nsource: {path: words/bin/say}\n"
        "patches: [say.patch]\ninputs: [words]\nbuild: |\n  # für alle\n  cp say $out\n"
    ),
    "linked": "version: 1.0\ntoolchain: host\nkind: files\nsource: {path: ..}\n",
    "fetched": "version: 1.0\ntoolchain: host\nkind: files\nsource: {git: 'file://REPOSITORY', ref: main}\n",
}
DESIRED = {"packages": ["words", "greetings", "fetched"], "users": {"alice": {"packages": ["linked", "words"]}}}


@dataclass(frozen=True)
class Person:
    """A user of a controller: an account that nobody else has, and what it is set to."""

    uid: int
    home: Path
    umask: int
    environment: dict[str, str]
    checkout: str

    def run(self, *command: str, where: str = "", status: int = 0) -> str:
        """Run a program as this user; it may read what root may, as this Python may be one that only root can reach."""
        powers = ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
        become = ["setpriv", "--reuid", str(self.uid), "--regid", str(self.uid), "--clear-groups", *powers, "--"]
        done = subprocess.run(
            [*become, "sh", "-c", f'umask {self.umask:04o} && exec "$@"', "sh", *command],
            cwd=self.home / where,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "LOGNAME": f"user{self.uid}",
                "RECONCILER_STORE": str(self.home / "store"),
                **self.environment,
            },
            capture_output=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == status, done.stdout.decode() + done.stderr.decode()
        return done.stdout.decode()

    def reconciler(self, *words: str, status: int = 0) -> str:
        return self.run(sys.executable, "-m", "reconciler", *words, where=self.checkout, status=status)

    def clone(self, bundle: Path) -> None:
        self.run("git", "clone", "--quiet", "--branch", "main", str(bundle), self.checkout)

    def planned(self) -> Any:
        """The store path of every profile of every host."""
        plan = json.loads(self.reconciler("plan", "--hosts", "all", "--json"))
        return {
            (host["host"], change["profile"]): change["after"]["path"]
            for host in plan["hosts"]
            for change in host["changes"]
        }


MakePerson = Callable[..., Person]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that everybody may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="reconciler-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)
        make_writable(Path(directory))


@pytest.fixture
def person(shared: Path) -> MakePerson:
    def make(uid: int, umask: int, checkout: str, **environment: str) -> Person:
        home = shared / f"home{uid}"
        home.mkdir()
        os.chown(home, uid, uid)
        return Person(uid, home, umask, environment, checkout)

    return make


def git(directory: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, "-C", str(directory), *arguments], check=True, capture_output=True)


def project(directory: Path, hosts: Fleet, upstream: Path) -> Path:
    """A project whose sources have names, modes and links that a checkout may bring out otherwise."""
    packages = directory / "inventories/main/packages"
    words = packages / "words"
    (words / "bin").mkdir(parents=True)
    (words / "bin/say").write_text("#!/bin/sh\necho hello\n")
    (words / "bin/say").chmod(0o755)
    for name in ("b", "B", "a", "ä", "_", "10", "9", "a b"):
        (words / name).write_text(f"{name} Grüße\n")
    (words / "link").symlink_to("bin/say")
    (packages / "say.patch").write_text("--- a/say\n+++ b/say\n@@ -1,2 +1,2 @@\n #!/bin/sh\n-echo hello\n+echo hi\n")
    for name, text in RECIPES.items():
        (packages / f"{name}.yml").write_text(text.replace("REPOSITORY", str(upstream)))
    settings = {
        "ansible_user": "root",
        "ansible_ssh_common_args": f"-F '{hosts.directory}/ssh_config'",
        "desired": DESIRED,
    }
    names = dict.fromkeys(host.name for host in hosts)
    (directory / "inventories/main/hosts.yml").write_text(json.dumps({"all": {"vars": settings, "hosts": names}}))
    return directory


def test_what_two_people_plan_with_the_same_inventory_and_lock_is_the_same(
    fleet: MakeFleet, shared: Path, person: MakePerson
) -> None:
    hosts = fleet(["web01", "web02"])
    upstream = shared / "upstream"
    upstream.mkdir()
    (upstream / "page").write_text("one\ntwo\n")
    top = project(shared / "first", hosts, upstream)
    for directory in (upstream, top):
        git(directory, "init", "--quiet")
        git(directory, "add", "--all")
        git(directory, "commit", "--quiet", "-m", "first")
    (shared / "gitconfig").write_text("[safe]\n\tdirectory = *\n")
    safe = {"GIT_CONFIG_SYSTEM": str(shared / "gitconfig")}
    bundle = shared / "bundle"
    git(top, "bundle", "create", str(bundle), "main")

    one = person(41011, 0o022, "shop", LANG="C.UTF-8", TZ="UTC", PYTHONHASHSEED="1", **safe)
    other = person(41012, 0o077, "work/clone of shop", LC_ALL="C", TZ="Asia/Tokyo", PYTHONHASHSEED="2", **safe)
    (other.home / ".gitconfig").write_text("[core]\n\tautocrlf = input\n\tabbrev = 30\n[tar]\n\tumask = 0077\n")
    one.clone(bundle)
    one.reconciler("lock")
    lock = one.home / "shop/inventories/main/reconciler.lock"
    other.clone(bundle)
    place = other.home / other.checkout / "inventories/main/reconciler.lock"
    place.write_bytes(lock.read_bytes())

    said = place.parent / "packages/words"
    assert (said / "a").stat().st_mode & 0o777 == 0o600, "a checkout with other mode bits"
    assert (said / "a").stat().st_uid == other.uid
    other.reconciler("lock", "--check")
    planned = one.planned()
    assert set(planned) == {(name, profile) for name in ("web01", "web02") for profile in ("system", "user/alice")}
    assert other.planned() == planned
    # Else nothing of this would be seen.
    (said / "a").chmod(0o700)
    assert set(other.planned().items()) & set(planned.items()) == set()
