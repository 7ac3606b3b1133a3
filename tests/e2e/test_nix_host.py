"""Hosts that have Nix and no Python that is fit: one is brought by their own Nix, and all else works as everywhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.errors import StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport.connection import ConnectOptions, connect
from reconciler.transport.nix_serve import ServeClient
from tests.e2e.conftest import MakeOperator
from tests.e2e.operator import Operator
from tests.hosts.host import TestHost

pytestmark = [pytest.mark.root, pytest.mark.nix]

LINK = "nix/var/nix/gcroots/reconciler/python"
# Not needed by an agent, and most of what there is.
LEFT_OUT = ("test", "idlelib", "tkinter", "ensurepip", "lib2to3", "config-*", "*-packages", "pydoc_data", "__pycache__")
LEFT_OUT_MODULES = ("unittest", "turtledemo", "_test*", "_codecs_*", "_decimal*", "unicodedata*")

# Its interpreter finds its library, and itself, by the store path; `words` makes it a closure of two.
RECIPE = """
version: {version}
toolchain: host
inputs: [words@1.0]
source: {{path: interpreter}}
build: |
  mkdir -p $out
  cp -R . $out/
  mkdir $out/bin
  printf '#!/bin/sh\\n# %s\\nLD_LIBRARY_PATH=%s/lib exec %s/libexec/python{short} "$@"\\n' \\
      "$words" "$out" "$out" > $out/bin/python3
  chmod 755 $out/bin/python3
"""


def interpreter(directory: Path) -> Path:
    """The Python that runs this test, as a directory that can stand anywhere."""
    short = f"{sys.version_info.major}.{sys.version_info.minor}"
    library = directory / "lib" / f"python{short}"
    shutil.copytree(
        sysconfig.get_path("stdlib"),
        library,
        ignore=shutil.ignore_patterns(*LEFT_OUT, *LEFT_OUT_MODULES),
        symlinks=True,
    )
    (directory / "libexec").mkdir()
    base = Path(sys.base_prefix) / "bin" / f"python{short}"
    shutil.copy(base.resolve(), directory / "libexec" / f"python{short}")
    shared = Path(str(sysconfig.get_config_var("LIBDIR"))) / str(sysconfig.get_config_var("INSTSONAME"))
    if shared.suffix != ".a" and shared.exists():
        shutil.copy(shared, directory / "lib")
    return directory


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return interpreter(tmp_path_factory.mktemp("portable") / "interpreter")


def offer(admin: Operator, portable: Path) -> None:
    """A package `python3` in the project."""
    packages = admin.fleet.directory / "packages"
    subprocess.run(["cp", "-al", portable, packages], check=True)
    version = ".".join(map(str, sys.version_info[:3]))
    short = version.rpartition(".")[0]
    (packages / "python3.yml").write_text(RECIPE.format(version=version, short=short).lstrip())


def take_python_away(host: TestHost) -> None:
    """No Python on the host's PATH: /usr/bin shows everything but that, until the host stops."""
    script = """
        mkdir -p /opt/usr-bin /opt/shown
        mount --bind /usr/bin /opt/usr-bin
        cd /opt/shown
        ln -s /opt/usr-bin/* .
        rm -f python* pypy* pydoc*
        mount --bind /opt/shown /usr/bin
    """
    done = host.run(script)
    assert done.returncode == 0, done.stderr
    assert host.run("command -v python3 || command -v python").returncode != 0
    assert host.ssh("nix --version").returncode == 0
    host.python = "auto"


@pytest.fixture
def without_python(operator: MakeOperator, portable: Path) -> Callable[..., Operator]:
    """`without_python("web01", …)`: hosts with real Nix and no Python, and a project that has a Python to bring."""

    def make(*names: str) -> Operator:
        admin = operator(list(names))
        for host in admin.fleet:
            take_python_away(host)
        admin.fleet.write_inventory()
        offer(admin, portable)
        return admin

    return make


def test_a_python_is_brought_and_then_all_works_as_everywhere(without_python: Callable[..., Operator]) -> None:
    admin = without_python("web01", "web02")
    version = ".".join(map(str, sys.version_info[:3]))
    admin.want({"packages": ["greet@1.0"]})
    # Said everywhere, with what to type; and nothing is made by looking.
    found = admin.json("doctor", status=3)["hosts"]
    assert re.fullmatch(r"there is no python3: needs Python 3.9; has Nix [0-9.]+", found[0]["problem"])
    assert found[0]["remedy"].startswith(f"reconciler doctor --bring-python --hosts … brings python3-{version}; or ")
    assert "2 hosts    web01 web02   FAILED: there is no python3" in admin.run("plan").stdout
    assert "has Nix" in admin.run("deploy", "--hosts", "web*", "--yes", status=3).stderr
    assert not (admin.fleet["web01"].root / "nix/var").exists()
    # No Python of another system is brought.
    admin.want({"system": "aarch64-linux"}, "host_vars/web02")
    foreign = admin.run("doctor", "--bring-python", "--hosts", "web02", "--yes", status=3).stdout
    assert "web02   NOT FIT   it is x86_64-linux, and " in foreign
    assert "say it of the host or its group:  desired: {system: x86_64-linux}" in foreign
    assert not (admin.fleet["web02"].root / "nix/var").exists()
    (admin.fleet.directory / "host_vars/web02.yml").unlink()
    refused = admin.run("doctor", "--bring-python", "--hosts", "web*", status=2)
    assert f"Bring python3-{version} to 2 hosts?" in refused.stderr
    # Brought.
    brought = admin.run("doctor", "--bring-python", "--hosts", "web*", "--yes")
    assert f"2 ready, 0 not fit. python3-{version} was brought to 2 hosts." in brought.stdout
    assert "locked     " in brought.stderr
    for host in admin.fleet:
        host.verify_store()
        assert os.readlink(host.root / LINK).endswith(f"-python3-{version}")
        host.nix("nix-store", "--gc")
    # As everywhere; and the root stays while others come and go.
    admin.run("deploy", "--hosts", "web*", "--yes")
    admin.want({"packages": ["greet@2.0", "tally"]})
    admin.run("deploy", "--hosts", "web*", "--yes")
    for host in admin.fleet:
        assert host.run("/run/current-system/sw/bin/greet").stdout == "hello from words 2.0\n"
        host.nix("nix-store", "--gc")
    admin.run("rollback", "--deployment", "last", "--yes")
    for host in admin.fleet:
        assert host.run("/run/current-system/sw/bin/greet").stdout == "hello from words 1.0\n"
    assert "2 ready, 0 not fit" in admin.run("doctor").stdout
    admin.run("status", "--exit-code", status=9)
    # Nothing to bring any more, and nothing asked.
    assert "Nothing was changed" in admin.run("doctor", "--bring-python", "--hosts", "web*").stdout
    # The lock keeps what was brought, though no host's inventory wants it.
    before = (admin.fleet.directory / "reconciler.lock").read_text()
    assert "python3" in before
    admin.run("lock")
    assert "python3" in (admin.fleet.directory / "reconciler.lock").read_text()
    # What was brought goes when the host is left.
    admin.run("leave", "--hosts", "web02", "--yes")
    assert not (admin.fleet["web02"].root / LINK).is_symlink()
    assert "1 ready, 1 not fit" in admin.run("doctor", status=3).stdout


def test_a_bringing_that_was_killed_is_completed_by_the_next(without_python: Callable[..., Operator]) -> None:
    admin = without_python("web01")
    host = admin.fleet["web01"]
    admin.run("build", "python3")
    sync = host.root / "opt/shown/sync"
    sync.unlink()
    sync.write_text("#!/bin/sh\ntouch /tmp/syncing\nexec sleep 60\n")
    sync.chmod(0o755)
    store = host.root / "nix/store"
    moments: tuple[Callable[[], bool], ...] = (
        lambda: any(store.glob("*-python3-*/lib")),  # while the copy is at work
        (host.root / "tmp/syncing").exists,  # when it is done, and nothing keeps it yet
    )
    for there in moments:
        admin.killed("doctor", "--bring-python", "--hosts", "web01", "--yes", there=there)
        assert not (host.root / LINK).is_symlink()
        host.verify_store()
    sync.unlink()
    sync.symlink_to("/opt/usr-bin/sync")
    admin.run("doctor", "--bring-python", "--hosts", "web01", "--yes")
    # One that was brought and does not start, for another machine say, is told, and another can be brought.
    spoiled = (
        "cd /tmp && mkdir -p wrong/bin && printf '#!/bin/sh\necho no such machine >&2\nexit 3\n' > wrong/bin/python3"
    )
    host.run(f"{spoiled} && chmod 755 wrong/bin/python3 && ln -sfn /tmp/wrong /{LINK}")
    (found,) = admin.json("doctor", "--hosts", "web01", status=3)["hosts"]
    assert "the one that was brought: the agent did not start (exit status 3): no such machine" in found["problem"]
    admin.run("doctor", "--bring-python", "--hosts", "web01", "--yes")
    admin.want({"packages": ["greet@1.0"]})
    admin.run("deploy", "--hosts", "web01", "--yes")


def test_a_python_that_lacks_modules_gives_way_to_the_one_that_was_brought_through_sudo(
    without_python: Callable[..., Operator],
) -> None:
    admin = without_python("web01")
    host = admin.fleet["web01"]
    poor = host.root / "opt/poor"
    shutil.copytree(admin.fleet.directory / "packages/interpreter", poor, symlinks=True)
    for module in poor.glob("lib/python*/lib-dynload/_sqlite3*"):
        module.unlink()
    short = f"{sys.version_info.major}.{sys.version_info.minor}"
    script = host.root / "opt/poor/python3"
    script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH=/opt/poor/lib exec /opt/poor/libexec/python{short} "$@"\n')
    script.chmod(0o755)
    host.python = "/opt/poor/python3"
    variables = admin.fleet.directory / "host_vars/web01.yml"
    variables.parent.mkdir()
    variables.write_text("{ansible_user: deploy, ansible_become: true}")
    admin.fleet.write_inventory()
    (found,) = admin.json("doctor", "--hosts", "web01", status=3)["hosts"]
    assert "has no sqlite3" in found["problem"]
    assert "reconciler doctor --bring-python --hosts … brings python3-" in found["remedy"]
    (found,) = admin.json("doctor", "--bring-python", "--hosts", "web01", "--yes")["hosts"]
    assert found["ready"]
    assert found["brought"].startswith("/nix/store/")
    admin.want({"packages": ["greet@1.0"]})
    admin.run("deploy", "--hosts", "web01", "--yes")
    assert host.run("/run/current-system/sw/bin/greet").stdout == "hello from words 1.0\n"


def test_what_cannot_be_brought_is_told_and_changes_nothing(without_python: Callable[..., Operator]) -> None:
    admin = without_python("web01")
    (admin.fleet.directory / "reconciler.yml").write_text("python: words\n")
    told = admin.run("doctor", "--bring-python", "--hosts", "web01", "--yes", status=2)
    assert re.search(r"words-2.0 has no bin/python3", told.stderr)
    (admin.fleet.directory / "reconciler.yml").write_text("python: python4\n")
    told = admin.run("doctor", "--bring-python", "--hosts", "web01", "--yes", status=2)
    assert "there is no package 'python4'" in told.stderr
    assert "there is no package 'python4': reconciler.yml names another" in admin.run("doctor", status=3).stdout
    told = admin.run("doctor", "--bring-python", "--yes", status=2)
    assert "--bring-python needs --hosts PATTERN" in told.stderr
    found = admin.json("doctor", "--hosts", "web01", "-u", "alice", status=3)["hosts"]
    assert "from root: ansible_become: true" in found[0]["remedy"]
    assert not (admin.fleet["web01"].root / LINK).is_symlink()


def test_a_user_of_a_multi_user_nix_copies_through_its_daemon(operator: MakeOperator, tmp_path: Path) -> None:
    admin = operator(["web01"], nixbld=2)
    (host,) = admin.fleet
    started = host.run("nix-store --init && (setsid nix-daemon </dev/null >/tmp/daemon.log 2>&1 &)")
    assert started.returncode == 0, started.stderr
    assert (
        host.run("until NIX_REMOTE=daemon nix-store --gc --print-roots >/dev/null 2>&1; do sleep 0.01; done").returncode
        == 0
    )
    settings = ConnectionSettings(
        host.name, user="alice", common_args=("-F", str(admin.fleet.ssh_config)), address=host.name
    )
    connection = connect(settings, ConnectOptions())
    with Store.open(str(tmp_path / "here"), create=True) as store:
        addressed = store.info(store.add_text("addressed", b"follows from its contents"))
        archive = nar.encode(nar.File(b"whose is it?"))
        unsigned = StorePath.parse("/nix/store/" + "1" * 32 + "-unsigned")
        store.add_nar(PathInfo(unsigned, Hash.sha256(archive), len(archive), ()), nar.ChunkReader([archive]))
        with ServeClient.start(connection, as_root=False) as nix:
            assert nix.copy([addressed], store.nar).paths == 1
            assert nix.valid([addressed.path, unsigned]) == {addressed.path}
            assert nix.infos([addressed.path])[addressed.path].ca == addressed.ca
            with pytest.raises(StoreError, match=r"lacks a signature by a trusted key|lacks a valid signature"):
                nix.copy([store.info(unsigned)], store.nar)
    connection.close()
    host.verify_store()
