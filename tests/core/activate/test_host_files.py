"""The files that a managed host has outside /nix, and what shells make of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from reconciler.core.activate import host_files
from reconciler.core.activate.host_files import FISH, PROFILE_SH, TMPFILES, install_host_files, remove_host_files

DIRECTORIES = (".nix-profile/bin", "/nix/var/nix/profiles/default/bin", "/run/current-system/sw/bin")


def test_missing_files_are_made_once(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert install_host_files(root).created == (PROFILE_SH, TMPFILES)
    assert install_host_files(root) == host_files.Installed((), (), ())
    for path in (PROFILE_SH, TMPFILES):
        assert (tmp_path / path.lstrip("/")).stat().st_mode & 0o7777 == 0o644


def test_fish_gets_its_file_where_fish_is(tmp_path: Path) -> None:
    (tmp_path / "etc/fish").mkdir(parents=True)
    assert install_host_files(str(tmp_path)).created == (PROFILE_SH, FISH, TMPFILES)


def test_our_own_file_is_put_right_after_an_edit(tmp_path: Path) -> None:
    install_host_files(str(tmp_path))
    file = tmp_path / PROFILE_SH.lstrip("/")
    right = file.read_bytes()
    file.write_bytes(right + b"export EDITED=1\n")
    assert install_host_files(str(tmp_path)) == host_files.Installed((), (PROFILE_SH,), ())
    assert file.read_bytes() == right


@pytest.mark.parametrize("kind", ["file", "empty", "directory", "link", "fifo"])
def test_somebody_elses_file_is_left_alone(kind: str, tmp_path: Path) -> None:
    file = tmp_path / PROFILE_SH.lstrip("/")
    file.parent.mkdir(parents=True)
    make: dict[str, Callable[[], object]] = {
        "file": lambda: file.write_text("# mine\n"),
        "empty": file.touch,
        "directory": file.mkdir,
        "link": lambda: file.symlink_to("/etc/elsewhere"),
        "fifo": lambda: os.mkfifo(file),
    }
    make[kind]()
    before = file.lstat()
    installed = install_host_files(str(tmp_path))
    assert (installed.created, installed.foreign) == ((TMPFILES,), (PROFILE_SH,))
    assert file.lstat().st_ino == before.st_ino


def test_removal_takes_what_was_made(tmp_path: Path) -> None:
    created = install_host_files(str(tmp_path)).created
    remove_host_files(created, str(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if not path.is_dir()]
    remove_host_files(created, str(tmp_path))


def test_the_boot_line_makes_a_link_and_never_moves_one(tmp_path: Path) -> None:
    install_host_files(str(tmp_path))
    lines = (tmp_path / TMPFILES.lstrip("/")).read_text().splitlines()
    assert lines[-1] == "L /run/current-system - - - - /nix/var/nix/profiles/system"
    if shutil.which("systemd-tmpfiles"):
        (tmp_path / "run").mkdir()
        command = ["systemd-tmpfiles", "--create", f"--root={tmp_path}", "reconciler.conf"]
        subprocess.run(command, check=True, capture_output=True)
        assert os.readlink(tmp_path / "run/current-system") == "/nix/var/nix/profiles/system"
        (tmp_path / "run/current-system").unlink()
        (tmp_path / "run/current-system").symlink_to("pinned")
        subprocess.run(command, check=False, capture_output=True)
        assert os.readlink(tmp_path / "run/current-system") == "pinned"


# --- shells -----------------------------------------------------------------------------------------------------------

SHELLS = {
    "dash": ["dash", "-eu"],
    "bash": ["bash", "--norc", "-eu"],
    "bash as sh": ["bash", "--posix", "-eu"],
    "zsh": ["zsh", "-f", "-eu"],
    "zsh as sh": ["zsh", "--emulate", "sh", "-f", "-eu"],
    "busybox": ["busybox", "sh", "-eu"],
}


@pytest.fixture
def script(tmp_path: Path) -> str:
    install_host_files(str(tmp_path / "root"))
    return str(tmp_path / "root" / PROFILE_SH.lstrip("/"))


NONE: Mapping[str, str] = MappingProxyType({})


def shell(
    command: list[str], script: str, home: Path | None, times: int = 1, variables: Mapping[str, str] = NONE
) -> dict[str, str]:
    """The environment after reading the file so many times."""
    program = shutil.which(command[0])
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    environment = {"PATH": "/usr/bin:/bin", **variables, **({"HOME": str(home)} if home else {})}
    text = f'. "{script}"; ' * times + "env"
    done = subprocess.run(
        [program, *command[1:], "-c", text], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


@pytest.mark.parametrize("command", SHELLS.values(), ids=SHELLS.keys())
def test_path_has_the_profiles_in_front_in_their_order_once(command: list[str], script: str, tmp_path: Path) -> None:
    (tmp_path / ".nix-profile").symlink_to("/nix/var/nix/profiles/per-user/me/profile")
    first, twice = (shell(command, script, tmp_path, times) for times in (1, 2))
    assert first["PATH"].split(":") == [
        f"{tmp_path}/.nix-profile/bin",
        "/nix/var/nix/profiles/default/bin",
        "/run/current-system/sw/bin",
        "/usr/bin",
        "/bin",
    ]
    assert first["XDG_DATA_DIRS"].split(":") == [
        f"{tmp_path}/.nix-profile/share",
        "/nix/var/nix/profiles/default/share",
        "/run/current-system/sw/share",
        "/usr/local/share",
        "/usr/share",
    ]
    assert {name: twice[name] for name in ("PATH", "XDG_DATA_DIRS")} == {
        name: first[name] for name in ("PATH", "XDG_DATA_DIRS")
    }
    assert not [name for name in first if "reconciler" in name]


def test_a_users_own_settings_stay(script: str, tmp_path: Path) -> None:
    (tmp_path / ".nix-profile").symlink_to("x")
    mine = {"XDG_DATA_DIRS": "/mine", "NIX_SSL_CERT_FILE": "/my/certificates", "LOCALE_ARCHIVE": "/my/locales"}
    found = shell(SHELLS["dash"], script, tmp_path, variables=mine)
    assert found["XDG_DATA_DIRS"].endswith(":/mine")
    assert (found["NIX_SSL_CERT_FILE"], found["LOCALE_ARCHIVE"]) == ("/my/certificates", "/my/locales")


def test_certificates_and_locales_are_named_only_where_they_are(script: str, tmp_path: Path) -> None:
    found = shell(SHELLS["dash"], script, tmp_path)
    for name in ("NIX_SSL_CERT_FILE", "LOCALE_ARCHIVE"):
        assert name not in found or os.path.exists(found[name])
    bundles = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
    assert ("NIX_SSL_CERT_FILE" in found) == any(map(os.path.exists, bundles))


def test_nixs_xdg_place_counts_without_a_home_link(script: str, tmp_path: Path) -> None:
    state = tmp_path / ".local/state/nix"
    state.mkdir(parents=True)
    (state / "profile").symlink_to("profiles/profile")
    assert shell(SHELLS["dash"], script, tmp_path)["PATH"].startswith(f"{state}/profile/bin:")


def test_without_anything_the_home_link_is_on_path_for_when_it_comes(script: str, tmp_path: Path) -> None:
    assert shell(SHELLS["dash"], script, tmp_path)["PATH"].startswith(f"{tmp_path}/.nix-profile/bin:")


def test_without_home_and_path_the_system_is_found_still(script: str) -> None:
    found = shell(SHELLS["dash"], script, None)
    assert found["PATH"] == "/nix/var/nix/profiles/default/bin:/run/current-system/sw/bin:/usr/bin:/bin"


def test_fish_does_the_same(tmp_path: Path) -> None:
    program = shutil.which("fish")
    if program is None:
        pytest.skip("fish is not installed")
    (tmp_path / "etc/fish").mkdir(parents=True)
    install_host_files(str(tmp_path))
    (tmp_path / ".nix-profile").symlink_to("x")
    text = f"source {tmp_path}{FISH}; source {tmp_path}{FISH}; env"
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "USER": "me"}
    out = subprocess.run(
        [program, "-N", "-c", text], env=environment, capture_output=True, text=True, check=True
    ).stdout
    found = dict(line.split("=", 1) for line in out.splitlines() if "=" in line)
    assert found["PATH"].split(":")[:3] == [f"{tmp_path}/{DIRECTORIES[0]}", *DIRECTORIES[1:]]
