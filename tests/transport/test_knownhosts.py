"""known_hosts as OpenSSH reads it, with ssh-keygen as the judge; and no key is ever taken on trust."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from reconciler.core.errors import UsageError
from reconciler.transport.errors import HostKeyChanged, HostKeyUnknown
from reconciler.transport.knownhosts import HostKey, Names, enrol, load, parse_line


def make_key(directory: Path, name: str, kind: str = "ed25519") -> HostKey:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", directory / name], check=True)
    type_, data, *_ = (directory / f"{name}.pub").read_text().split()
    return HostKey(type_, data)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HostKey]:
    directory = tmp_path_factory.mktemp("keys")
    return {
        "one": make_key(directory, "one"),
        "two": make_key(directory, "two"),
        "ec": make_key(directory, "ec", "ecdsa"),
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "known_hosts"


def line(names: str, key: HostKey, marker: str = "") -> str:
    return f"{marker} {names} {key.type} {key.data} comment\n".lstrip()


@pytest.mark.parametrize(
    ("written", "host", "port", "known"),
    [
        ("web01", "web01", 22, True),
        ("web01", "WEB01", 22, True),
        ("web01", "web02", 22, False),
        ("web01,10.0.0.1", "10.0.0.1", 22, True),
        ("*.example.org", "web01.example.org", 22, True),
        ("web0?", "web01", 22, True),
        ("*.example.org,!bad.example.org", "bad.example.org", 22, False),
        ("[web01]:2222", "web01", 2222, True),
        ("[web01]:2222", "web01", 2223, False),
        ("[web01]:2222", "web01", 22, False),
        ("web01", "web01", 2222, True),
        ("[*]:2222", "web01", 2222, True),
        ("[::1]:2222", "::1", 2222, True),
    ],
)
def test_a_host_is_found_by_its_names(  # noqa: PLR0917  # one row of the table above
    file: Path, keys: dict[str, HostKey], written: str, host: str, port: int, known: bool
) -> None:
    file.write_text("# a comment\n\n" + line(written, keys["one"]))
    names = Names.of(host, port)
    if known:
        load([str(file)]).check(names, keys["one"], host)
    else:
        with pytest.raises(HostKeyUnknown):
            load([str(file)]).check(names, keys["one"], host)


@pytest.mark.parametrize(("host", "port"), [("web01", 22), ("web01", 2222)])
def test_hashed_names_are_read_as_ssh_keygen_writes_them(
    file: Path, keys: dict[str, HostKey], host: str, port: int
) -> None:
    names = Names.of(host, port)
    file.write_text(line(names.name, keys["one"]))
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", file], check=True, capture_output=True)
    assert host not in file.read_text()
    load([str(file)]).check(names, keys["one"], host)
    with pytest.raises(HostKeyUnknown):
        load([str(file)]).check(Names.of("other", port), keys["one"], "other")


def test_an_alias_stands_for_host_and_port(file: Path, keys: dict[str, HostKey]) -> None:
    file.write_text(line("real", keys["one"]))
    load([str(file)]).check(Names.of("10.0.0.1", 2222, "real"), keys["one"], "web01")


def test_an_unknown_key_is_told_with_its_fingerprint_and_what_to_do(
    file: Path, keys: dict[str, HostKey], tmp_path: Path
) -> None:
    with pytest.raises(HostKeyUnknown) as caught:
        load([str(file)]).check(Names.of("10.0.0.1", 2222), keys["one"], "web01")
    error = caught.value
    public = tmp_path / "key.pub"
    public.write_text(f"{keys['one'].type} {keys['one'].data}\n")
    shown = subprocess.run(["ssh-keygen", "-l", "-f", public], check=True, capture_output=True, text=True).stdout
    assert error.fingerprint == shown.split()[1]
    assert error.message == f"host key unknown: ssh-ed25519 {error.fingerprint}"
    assert error.hint == "reconciler trust web01"
    assert (error.name, error.key_type, error.key) == ("[10.0.0.1]:2222", "ssh-ed25519", keys["one"].data)


@pytest.mark.parametrize("shown", ["two", "ec"])
def test_another_key_than_the_known_one_is_refused(file: Path, keys: dict[str, HostKey], shown: str) -> None:
    file.write_text(line("web01", keys["one"]))
    with pytest.raises(
        HostKeyChanged, match=r"host key changed: the host shows .*, known is ssh-ed25519 SHA256:"
    ) as caught:
        load([str(file)]).check(Names.of("web01", 22), keys[shown], "web01")
    assert f"{file}:1" in caught.value.message


def test_one_of_several_known_keys_is_enough(file: Path, keys: dict[str, HostKey]) -> None:
    file.write_text(line("web01", keys["one"]) + line("web01", keys["ec"]))
    known = load([str(file)])
    for name in ("one", "ec"):
        known.check(Names.of("web01", 22), keys[name], "web01")
    assert known.types(Names.of("web01", 22)) == ("ssh-ed25519", "ecdsa-sha2-nistp256")


def test_a_revoked_key_is_refused_even_when_it_is_known_too(file: Path, keys: dict[str, HostKey]) -> None:
    file.write_text(line("web01", keys["one"]) + line("*", keys["one"], "@revoked"))
    with pytest.raises(HostKeyChanged, match=r"host key revoked"):
        load([str(file)]).check(Names.of("web01", 22), keys["one"], "web01")


def test_a_certificate_authority_makes_no_key_known(file: Path, keys: dict[str, HostKey]) -> None:
    file.write_text(line("web01", keys["one"], "@cert-authority"))
    with pytest.raises(HostKeyUnknown, match=r"certificate authority"):
        load([str(file)]).check(Names.of("web01", 22), keys["one"], "web01")


@pytest.mark.parametrize(
    "text",
    ["", "   ", "# x", "web01", "web01 ssh-rsa", "web01 ssh-rsa !!!", "@unknown web01 ssh-rsa AAAA", "|1|x web01"],
)
def test_a_line_that_is_not_understood_is_passed_over(text: str) -> None:
    assert parse_line(text, "") is None


def test_a_broken_hash_matches_nothing(file: Path, keys: dict[str, HostKey]) -> None:
    file.write_text(line("|1|broken|x", keys["one"]) + line("|1|", keys["one"]))
    with pytest.raises(HostKeyUnknown):
        load([str(file)]).check(Names.of("web01", 22), keys["one"], "web01")


def test_a_changed_file_is_read_again(file: Path, keys: dict[str, HostKey]) -> None:
    names = Names.of("web01", 22)
    file.write_text(line("web01", keys["two"]))
    with pytest.raises(HostKeyChanged):
        load([str(file)]).check(names, keys["one"], "web01")
    file.unlink()
    file.write_text(line("web01", keys["one"]))
    load([str(file)]).check(names, keys["one"], "web01")


def test_a_key_is_enrolled_in_a_new_file_that_only_the_user_reads(tmp_path: Path, keys: dict[str, HostKey]) -> None:
    file = tmp_path / "new" / "known_hosts"
    names = Names.of("web01", 2222)
    enrol(str(file), names, keys["one"])
    assert file.read_text() == f"[web01]:2222 {keys['one'].type} {keys['one'].data}\n"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    load([str(file)]).check(names, keys["one"], "web01")
    done = subprocess.run(["ssh-keygen", "-F", "[web01]:2222", "-f", file], capture_output=True, text=True, check=True)
    assert "found: line 1" in done.stdout


def test_enrolling_replaces_what_was_known_of_that_name_and_nothing_else(file: Path, keys: dict[str, HostKey]) -> None:
    others = (
        "# keep\n" + line("web02", keys["two"]) + line("*.org", keys["two"]) + line("web01", keys["two"], "@revoked")
    )
    file.write_text(others + line("web01", keys["two"]) + line("web01,10.0.0.1", keys["ec"]).rstrip("\n"))
    enrol(str(file), Names.of("web01", 22), keys["one"])
    assert (
        file.read_text()
        == others + f"10.0.0.1 {keys['ec'].type} {keys['ec'].data}\nweb01 {keys['one'].type} {keys['one'].data}\n"
    )


@pytest.mark.parametrize("name", ["web 01", "web01\nevil", "*", "a,b", "@revoked", "#x"])
def test_a_name_that_would_be_more_than_a_name_is_not_written(file: Path, keys: dict[str, HostKey], name: str) -> None:
    with pytest.raises(UsageError):
        enrol(str(file), Names(name), keys["one"])
    assert not file.exists()
