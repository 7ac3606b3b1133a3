"""ssh configuration: what the real `ssh -G` says of a host is what we dial. The real program is the judge."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler.core.errors import UsageError
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport import ssh
from reconciler.transport.connection import ConnectOptions
from reconciler.transport.sshconfig import Arguments, Hop, Target, check_name

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs OpenSSH's client")


def target(settings: ConnectionSettings, options: ConnectOptions | None = None) -> Target:
    return ssh._resolve(settings, options or ConnectOptions())[0]


def with_file(file: Path, host: str = "web01", *more: str, **fields: object) -> ConnectionSettings:
    return ConnectionSettings(host, common_args=("-F", str(file), *more), **fields)  # type: ignore[arg-type]


def real(file: Path, host: str) -> dict[str, list[str]]:
    """`ssh -G`: what OpenSSH makes of the same file."""
    shown = subprocess.run(["ssh", "-G", "-F", file, host], capture_output=True, text=True, check=True).stdout
    found: dict[str, list[str]] = {}
    for line in shown.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


CONFIGS = {
    "plain": "Host web01\n  HostName 10.0.0.1\n  Port 2222\n  User deployer\n",
    "first wins": "Host web*\n  User one\nHost web01\n  User two\n  Port 5\nHost *\n  Port 6\n",
    "negated": "Host web* !web01\n  User no\nHost *\n  User yes\n",
    "equals": "Host=web01\nPort=2222\nUser = deployer\n",
    "tokens": "Host web01\n  HostName %h.example.org\n",
    "match host": "Match host web01\n  User matched\nMatch all\n  Port 7\n",
    "match originalhost": "Host web01\n  HostName re\nMatch originalhost web01\n  Port 8\nMatch host re\n  User r\n",
    "quoted": 'Host "web01"\n  User "deployer"\n',
    "include": "Include other\nHost web01\n  User late\n",
    "include in a block": "Host db*\n  Include other\nHost *\n  User outer\n",
    "include a host in a block": "Host web*\n  Include hosts\n  Port 9\nHost *\n  User outer\n",
    "include a glob": "Include conf.d/*\n",
    "include after": "Host web01\n  User early\nInclude other\n",
    "identities": "Host web01\n  IdentityFile ~/.ssh/a\n  IdentitiesOnly yes\nHost *\n  IdentityFile /keys/%h-%r\n",
    "known hosts": "Host web01\n  UserKnownHostsFile /a /c/%h\n  GlobalKnownHostsFile /dev/null\n  HostKeyAlias real\n",
}
INCLUDED = {
    "other": "Port 33\nHost web01\n  User included\n",
    "hosts": "Host web01\n  User inside\nHost db01\n  User wrong\n",
    "conf.d/10-a": "Host web01\n  User ten\n",
    "conf.d/20-b": "Host web01\n  User twenty\n  Port 20\n",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_host_is_dialled_as_ssh_would(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # ssh takes the home from the user database, whatever $HOME says; we take $HOME.
    monkeypatch.setenv("HOME", pwd.getpwuid(os.getuid()).pw_dir)
    text = CONFIGS[name]
    for included, contents in INCLUDED.items():
        path = tmp_path / included
        path.parent.mkdir(exist_ok=True)
        path.write_text(contents)
        # ssh looks for relative names in ~/.ssh, wherever the file lies; absolute ones mean the same to both.
        text = text.replace(f"Include {included}\n", f"Include {path}\n")
    file = tmp_path / "config"
    file.write_text(text.replace("Include conf.d/*", f"Include {tmp_path}/conf.d/*"))
    wanted, found = real(file, "web01"), target(with_file(file))
    assert (found.host, found.port, found.user) == (wanted["hostname"][0], int(wanted["port"][0]), wanted["user"][0])
    assert found.identities_only == (wanted["identitiesonly"] == ["yes"])
    assert found.alias == next(iter(wanted.get("hostkeyalias", [])), None)
    expanded = [os.path.expanduser(path) for path in wanted["userknownhostsfile"][0].split()]
    assert [path.replace("%h", found.host) for path in expanded] == list(found.known_hosts[: len(expanded)])
    if name == "identities":
        shown = [path.replace("%h", found.host).replace("%r", found.user) for path in wanted["identityfile"]]
        assert [os.path.expanduser(path) for path in shown] == list(found.identities)


def test_a_relative_include_is_looked_for_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".ssh"
    folder.mkdir()
    (folder / "config").write_text("Include more\n")
    (folder / "more").write_text("Host web01\n  Port 77\n")
    assert target(ConnectionSettings("web01")).port == 77


def test_the_inventory_wins_over_the_file_and_the_command_line_over_both(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("Host web01\n  Port 1\n  User file\n  IdentityFile /file\n")
    settings = with_file(file, port=2, user="inventory", private_key_file="/inventory")
    found = target(settings)
    assert (found.port, found.user, found.identities) == (2, "inventory", ("/inventory", "/file"))
    assert target(settings, ConnectOptions(user="typed")).user == "typed"


def test_an_address_is_what_is_looked_up(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("Host gate\n  HostName 10.9.9.9\n")
    assert target(with_file(file, "web01", address="gate")).host == "10.9.9.9"


def test_options_on_the_command_line_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("Host *\n  Port 1\n  UserKnownHostsFile /file\n")
    found = target(with_file(file, "web01", "-o", "Port=2", "-oUserKnownHostsFile=/mine"))
    assert (found.port, found.known_hosts[0]) == (2, "/mine")


def test_a_configuration_of_the_options_replaces_both_files(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("Host *\n  Port 99\n")
    assert target(ConnectionSettings("web01"), ConnectOptions(ssh_config=file)).port == 99


@pytest.mark.parametrize(
    ("text", "jumps", "command"),
    [
        ("ProxyJump gate", (Hop("gate"),), None),
        ("ProxyJump ops@gate:2222,second", (Hop("gate", "ops", 2222), Hop("second")), None),
        ("ProxyJump none\nProxyCommand nc %h %p", (), None),
        ("ProxyCommand nc %h %p\nProxyJump gate", (), "nc web01 22"),
        ("ProxyJump gate\nProxyCommand nc %h %p", (Hop("gate"),), None),
        ("ProxyCommand none", (), None),
    ],
)
def test_the_first_proxy_counts(tmp_path: Path, text: str, jumps: tuple[Hop, ...], command: str | None) -> None:
    file = tmp_path / "config"
    file.write_text(f"Host web01\n{text}\n")
    found = target(with_file(file))
    assert (found.jumps, found.proxy_command) == (jumps, command)


def test_a_jump_on_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("Host web01\n  ProxyCommand nc %h %p\n")
    assert target(with_file(file, "web01", "-J", "gate")).jumps == (Hop("gate"),)


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("gate", Hop("gate")),
        ("ops@gate", Hop("gate", "ops")),
        ("gate:22", Hop("gate", None, 22)),
        ("[::1]:2222", Hop("::1", None, 2222)),
        ("ops@[::1]", Hop("::1", "ops")),
        ("ssh://ops@gate:2222", Hop("gate", "ops", 2222)),
        ("ssh://gate/", Hop("gate")),
    ],
)
def test_a_jump_host_is_read(text: str, hop: Hop) -> None:
    assert Hop.parse(text) == hop


@pytest.mark.parametrize("text", ["", "@gate", "-oProxyCommand=x", "$(id)", "a b", "gate;id"])
def test_what_is_no_jump_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Hop.parse(text)


@pytest.mark.parametrize(
    "name", ["-oProxyCommand=touch /tmp/x", "$(id)", "a b", "a;b", "a\nb", "'", '"', "a|b", "", "`id`"]
)
def test_a_name_that_a_shell_could_read_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no host name"):
        check_name(name, "host")
    with pytest.raises(UsageError):
        target(ConnectionSettings(name, common_args=("-F", "none")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-v",), "ssh argument '-v' is not understood"),
        (("-F",), "needs a value"),
        (("-o", "Port"), "is not KEY=VALUE"),
        (("-F", "/no/such/file"), "/no/such/file is not there"),
        (("-o", "Port=http"), "'http' is no port"),
    ],
)
def test_arguments_that_are_not_understood_are_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        target(ConnectionSettings("web01", common_args=words))


def test_arguments_are_read_in_both_spellings() -> None:
    assert Arguments.parse(["-Ffile", "-oA=b", "-o", "C d", "-Jgate"]) == Arguments(
        "file", ("A=b", "C d", "ProxyJump=gate")
    )


def test_an_include_of_itself_ends(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(f"Include {file}\n")
    with pytest.raises(UsageError, match="Include goes deeper"):
        target(with_file(file))


def test_without_any_configuration_a_host_is_what_its_name_says() -> None:
    found = target(ConnectionSettings("web01", common_args=("-F", "none")))
    assert (found.host, found.port, found.user, found.jumps) == ("web01", 22, getpass.getuser(), ())
    assert found.identities[0] == os.path.expanduser("~/.ssh/id_ed25519")
