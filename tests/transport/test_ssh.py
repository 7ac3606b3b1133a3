"""Logins to real OpenSSH servers: who is trusted, which keys are tried, what is said when it fails, what sudo gets."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest

from reconciler.core.agent.messages import BeginRequest, HistoryRequest, MissingRequest, ObserveRequest
from reconciler.core.errors import LinkLostError, ReconcilerError, UnreachableError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport import knownhosts, pump, ssh
from reconciler.transport.client import AgentClient
from reconciler.transport.connection import Connection, ConnectOptions, connect
from reconciler.transport.errors import (
    ElevationError,
    HostKeyChanged,
    HostKeyUnknown,
    LoginRefused,
    LoginTimeout,
    NoStrictKeyExchange,
    NotFit,
    PythonError,
    TooBusy,
    TooManyKeys,
)
from tests.core.agent.agents import messages
from tests.hosts.fixture import MakeFleet
from tests.hosts.host import Fleet, TestHost
from tests.hosts.image import OPS_PASSWORD

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def no_agent_of_the_developer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def settings(host: TestHost, *more: str, **fields: object) -> ConnectionSettings:
    arguments = ("-F", str(host.fleet.ssh_config), *more)
    return ConnectionSettings(host.name, common_args=arguments, python=host.python, **fields)  # type: ignore[arg-type]


def observe(wanted: ConnectionSettings, options: ConnectOptions | None = None) -> int:
    """Log in, look, and hang up; the uid that the agent had."""
    connection = connect(wanted, options)
    try:
        client = AgentClient.start(connection, wanted)
        try:
            return client.observe(ObserveRequest()).uid
        finally:
            client.close()
    finally:
        connection.close()


def sshd_log(host: TestHost) -> str:
    return "".join(
        path.read_text(errors="replace") for path in (host.fleet.directory / "logs").rglob("*") if path.is_file()
    )


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread is not threading.main_thread()}


# --- trust ------------------------------------------------------------------------------------------------------------


def test_a_known_host_is_logged_in_to_and_nothing_is_left_behind(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    before = threads()
    assert observe(settings(host)) == 0
    time.sleep(0.2)
    assert threads() - before == set()
    assert not (host.root / "nix/var/reconciler").exists()


def test_an_unknown_host_is_refused_and_not_stored_and_nothing_is_sent_to_it(fleet: MakeFleet) -> None:
    """fabric alone would add the key and go on."""
    (host,) = fleet(1)
    known = host.fleet.directory / "known_hosts"
    known.write_text("")
    with pytest.raises(HostKeyUnknown, match=r"^host key unknown: ssh-ed25519 SHA256:") as caught:
        connect(settings(host))
    assert caught.value.hint == f"reconciler trust {host.name}"
    assert known.read_text() == ""
    assert not list(Path("~/.ssh").expanduser().glob("*"))
    time.sleep(0.3)
    assert "publickey" not in sshd_log(host)
    assert "user root" not in sshd_log(host)


def test_fabric_alone_would_have_added_the_key(fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: with our policy taken away, the same login is made."""
    (host,) = fleet(1)
    (host.fleet.directory / "known_hosts").write_text("")
    real = paramiko.SSHClient.set_missing_host_key_policy

    def only_fabrics(client: paramiko.SSHClient, policy: object) -> None:
        if isinstance(policy, paramiko.AutoAddPolicy):
            real(client, policy)

    monkeypatch.setattr(paramiko.SSHClient, "set_missing_host_key_policy", only_fabrics)
    assert observe(settings(host)) == 0


@pytest.mark.parametrize("option", ["StrictHostKeyChecking=no", "StrictHostKeyChecking=accept-new"])
def test_no_option_makes_an_unknown_host_trusted(fleet: MakeFleet, option: str) -> None:
    (host,) = fleet(1)
    (host.fleet.directory / "known_hosts").write_text("")
    with pytest.raises(HostKeyUnknown):
        connect(settings(host, "-o", option))


def test_a_changed_host_key_is_refused(fleet: MakeFleet, tmp_path: Path) -> None:
    (host,) = fleet(1)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    kind, key, *_ = (tmp_path / "other.pub").read_text().split()
    (host.fleet.directory / "known_hosts").write_text(f"[127.0.0.1]:{host.port} {kind} {key}\n")
    with pytest.raises(HostKeyChanged, match=r"host key changed"):
        connect(settings(host))
    time.sleep(0.3)
    assert "publickey" not in sshd_log(host)


def test_scanning_and_enrolling_a_host_makes_it_known(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    known = host.fleet.directory / "known_hosts"
    listed = known.read_text()
    known.write_text("")
    names, key, file = knownhosts.scan(settings(host))
    assert (names.name, file) == (f"[127.0.0.1]:{host.port}", str(known))
    assert f"{names.name} {key.type} {key.data}" in listed
    knownhosts.enrol(file, names, key)
    assert observe(settings(host)) == 0
    assert knownhosts.scan(settings(host)) == (names, key, file)


def test_a_host_key_alias_is_looked_up_instead(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    known = host.fleet.directory / "known_hosts"
    known.write_text(known.read_text().replace(f"[127.0.0.1]:{host.port}", "the-alias"))
    with pytest.raises(HostKeyUnknown):
        connect(settings(host))
    assert observe(settings(host, "-o", "HostKeyAlias=the-alias")) == 0


class OldServer(paramiko.ServerInterface):
    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        raise AssertionError("a key was offered")


def test_a_server_without_strict_key_exchange_is_refused_before_a_key_is_offered(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    host_key = paramiko.RSAKey.generate(2048)

    def serve() -> None:
        sock, _ = listener.accept()
        transport = paramiko.Transport(sock, strict_kex=False)
        transport.add_server_key(host_key)
        with contextlib.suppress(paramiko.SSHException, EOFError):  # the other side hangs up
            transport.start_server(server=OldServer())
            transport.join(10)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    port = listener.getsockname()[1]
    known = tmp_path / "known"
    known.write_text(f"[127.0.0.1]:{port} ssh-rsa {host_key.get_base64()}\n")
    wanted = ConnectionSettings("127.0.0.1", port=port, common_args=("-F", "none", "-o", f"UserKnownHostsFile={known}"))
    with pytest.raises(NoStrictKeyExchange, match=r"CVE-2023-48795"):
        connect(wanted)
    listener.close()
    thread.join(5)


# --- keys -------------------------------------------------------------------------------------------------------------


def make_key(path: Path, passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", path], check=True)
    return path


def with_key(host: TestHost, *keys: Path, extra: str = "") -> ConnectionSettings:
    """Settings that name these keys and no other."""
    text = host.fleet.ssh_config.read_text()
    lines = [line for line in text.splitlines() if "IdentityFile" not in line and "IdentitiesOnly" not in line]
    config = host.fleet.directory / "config_with_keys"
    config.write_text("\n".join(lines) + "\nHost *\n" + "".join(f'  IdentityFile "{key}"\n' for key in keys) + extra)
    return ConnectionSettings(host.name, common_args=("-F", str(config)), python=host.python)


def test_a_wrong_key_is_refused_naming_what_was_tried(fleet: MakeFleet, tmp_path: Path) -> None:
    (host,) = fleet(1)
    wrong = make_key(tmp_path / "wrong")
    with pytest.raises(LoginRefused, match=r"^ssh: root: permission denied \(.*/wrong\)$") as caught:
        connect(with_key(host, wrong))
    assert f"ssh root@127.0.0.1:{host.port}" in str(caught.value.hint)


def test_no_key_at_all_is_said(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    with pytest.raises(LoginRefused, match=r"no key was found"):
        connect(with_key(host))


def test_too_many_keys_are_their_own_error(fleet: MakeFleet, tmp_path: Path) -> None:
    (host,) = fleet(1, sshd="MaxAuthTries 2")
    keys = [make_key(tmp_path / f"wrong{number}") for number in range(4)]
    with pytest.raises(
        TooManyKeys, match=r"the host hung up after \d keys: Too many authentication failures"
    ) as caught:
        connect(with_key(host, *keys, host.fleet.directory / "key"))
    assert "IdentitiesOnly" in str(caught.value.hint)


def test_the_right_key_behind_a_wrong_one_is_found(fleet: MakeFleet, tmp_path: Path) -> None:
    (host,) = fleet(1)
    assert observe(with_key(host, make_key(tmp_path / "wrong"), host.fleet.directory / "key")) == 0


@pytest.fixture
def ssh_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    path = str(tmp_path / "agent")
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    while not os.path.exists(path):
        time.sleep(0.01)
    monkeypatch.setenv("SSH_AUTH_SOCK", path)
    yield path
    process.terminate()
    process.wait()


def test_a_key_that_only_the_ssh_agent_holds_opens_the_host(fleet: MakeFleet, ssh_agent: str) -> None:
    (host,) = fleet(1)
    subprocess.run(["ssh-add", "-q", host.fleet.directory / "key"], check=True, capture_output=True)
    assert observe(with_key(host)) == 0
    with pytest.raises(LoginRefused):
        connect(with_key(host, extra="  IdentitiesOnly yes\n"))
    with pytest.raises(LoginRefused):
        connect(with_key(host, extra="  IdentityAgent none\n"))


def test_an_agent_key_that_is_named_comes_before_the_others(fleet: MakeFleet, ssh_agent: str, tmp_path: Path) -> None:
    (host,) = fleet(1, sshd="MaxAuthTries 2")
    key = host.fleet.directory / "key"
    for number in range(4):
        subprocess.run(["ssh-add", "-q", make_key(tmp_path / f"other{number}")], check=True, capture_output=True)
    subprocess.run(["ssh-add", "-q", key], check=True, capture_output=True)
    with pytest.raises(TooManyKeys):
        connect(with_key(host))
    key.with_suffix(".pub").write_bytes(
        subprocess.run(["ssh-keygen", "-y", "-f", key], check=True, capture_output=True).stdout
    )
    assert observe(with_key(host, key)) == 0


def test_an_encrypted_key_is_asked_for_or_left_out(fleet: MakeFleet, tmp_path: Path) -> None:
    (host,) = fleet(1)
    locked = tmp_path / "locked"
    locked.write_bytes((host.fleet.directory / "key").read_bytes())
    locked.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open", "-f", locked], check=True, capture_output=True)
    with pytest.raises(LoginRefused, match=r"locked needs a passphrase") as caught:
        connect(with_key(host, locked))
    assert caught.value.hint == "ssh-add the key"
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "open"

    assert observe(with_key(host, locked), ConnectOptions(ask_password=ask)) == 0
    assert asked == [f"Passphrase of {locked}: "]
    with pytest.raises(LoginRefused):
        connect(with_key(host, locked), ConnectOptions(ask_password=lambda prompt: "wrong"))


# --- no way there -----------------------------------------------------------------------------------------------------


def local(port: int, **fields: object) -> ConnectionSettings:
    return ConnectionSettings("127.0.0.1", port=port, common_args=("-F", "none"), **fields)  # type: ignore[arg-type]


def test_a_closed_port_is_said_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(UnreachableError, match=rf"^ssh: 127.0.0.1 port {port}: connection refused$"):
        connect(local(port))
    assert time.monotonic() - started < 2


def test_a_name_that_is_not_known_is_said() -> None:
    with pytest.raises(UnreachableError, match=r"^ssh: the name no-such-host.invalid is not known"):
        connect(ConnectionSettings("no-such-host.invalid", common_args=("-F", "none")))


def test_a_server_that_says_nothing_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        started = time.monotonic()
        with pytest.raises(LoginTimeout, match=r"^ssh: connection timed out after 1.5 s$"):
            connect(local(listener.getsockname()[1], timeout=1.5))
        assert 1 < time.monotonic() - started < 4


def serve_once(listener: socket.socket, data: bytes, times: int = 1) -> threading.Thread:
    def serve() -> None:
        for _ in range(times):
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                sock.settimeout(5)
                try:
                    while sock.recv(1000):
                        pass
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def test_what_is_no_ssh_server_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serve_once(listener, b"HTTP/1.1 400 Bad Request\r\n" * 200)
        with pytest.raises(UnreachableError, match=r"is no SSH server"):
            connect(local(listener.getsockname()[1]))


def test_a_server_that_always_hangs_up_is_given_up_on_after_some_tries() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serve_once(listener, b"Exceeded MaxStartups\r\n", times=10)
        with pytest.raises(TooBusy, match=r"hung up before the login \(3 times\)$") as caught:
            connect(local(listener.getsockname()[1]), ConnectOptions(retries=2))
    assert "MaxStartups" in str(caught.value.hint)


def test_logins_that_max_startups_drops_are_tried_again(fleet: MakeFleet) -> None:
    (host,) = fleet(1, sshd="MaxStartups 2:100:2\nPerSourcePenalties no" if _penalties() else "MaxStartups 2:100:2")
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(lambda _: observe(settings(host, timeout=30)), range(12))) == [0] * 12
    assert "MaxStartups" in sshd_log(host)


def _penalties() -> bool:
    shown = subprocess.run(["/usr/sbin/sshd", "-T"], capture_output=True, text=True, check=False).stdout
    return "persourcepenalties" in shown.lower()


def test_one_session_at_a_time_is_enough(fleet: MakeFleet) -> None:
    (host,) = fleet(1, sshd="MaxSessions 1")
    assert observe(settings(host)) == 0


@pytest.mark.parametrize("line", ["ForceCommand echo not today", "ForceCommand /bin/false"])
def test_a_host_that_lets_us_run_nothing_is_not_fit(fleet: MakeFleet, line: str) -> None:
    (host,) = fleet(1, sshd=line)
    with pytest.raises(NotFit, match=r"the agent did not start \(exit status \d\)"):
        observe(settings(host))


def test_a_host_that_allows_no_session_is_said(fleet: MakeFleet) -> None:
    (host,) = fleet(1, sshd="MaxSessions 0")
    with pytest.raises(LinkLostError, match=r"no program could be started") as caught:
        observe(settings(host))
    assert "MaxSessions" in str(caught.value.hint)


# --- over other hosts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["-J", "ProxyCommand"])
def test_a_host_is_reached_over_another(fleet: MakeFleet, how: str) -> None:
    gate, inner = fleet(["gate", "inner"])
    config = gate.fleet.ssh_config
    more = ("-J", "gate") if how == "-J" else ("-o", f"ProxyCommand=ssh -F {config} -W %h:%p gate")
    assert observe(settings(inner, *more)) == 0
    time.sleep(0.3)
    accepted = sum(line.count("Accepted publickey") for line in sshd_log(gate).splitlines())
    assert accepted == 2


def test_a_jump_host_over_a_jump_host(fleet: MakeFleet) -> None:
    first, second, inner = fleet(3)
    assert observe(settings(inner, "-J", f"{first.name},{second.name}")) == 0


def test_an_unknown_jump_host_is_refused_and_named(fleet: MakeFleet) -> None:
    gate, inner = fleet(["gate", "inner"])
    known = gate.fleet.directory / "known_hosts"
    known.write_text("".join(line for line in known.read_text().splitlines(True) if f":{gate.port} " not in line))
    with pytest.raises(HostKeyUnknown, match=r"^jump host gate: host key unknown") as caught:
        connect(settings(inner, "-J", "gate"))
    assert caught.value.hint == "reconciler trust gate"


def test_an_unknown_host_behind_a_known_jump_host_is_refused(fleet: MakeFleet) -> None:
    gate, inner = fleet(["gate", "inner"])
    known = gate.fleet.directory / "known_hosts"
    known.write_text("".join(line for line in known.read_text().splitlines(True) if f":{inner.port} " not in line))
    with pytest.raises(HostKeyUnknown, match=r"^host key unknown"):
        connect(settings(inner, "-J", "gate"))


def test_a_jump_host_that_cannot_go_on_is_named(fleet: MakeFleet) -> None:
    _, inner = fleet(["gate", "inner"])
    inner.stop()
    with pytest.raises(UnreachableError, match=rf"jump host gate cannot reach 127.0.0.1 port {inner.port}"):
        connect(settings(inner, "-J", "gate"))


def test_jump_hosts_in_a_circle_end(fleet: MakeFleet) -> None:
    gate, _ = fleet(["gate", "inner"])
    config = gate.fleet.directory / "circle"
    text = gate.fleet.ssh_config.read_text()
    config.write_text(text + "Host gate\n  ProxyJump inner\nHost inner\n  ProxyJump gate\n")
    wanted = ConnectionSettings("inner", common_args=("-F", str(config)))
    with pytest.raises(ReconcilerError, match=r"circle"):
        connect(wanted)


def test_a_proxy_command_that_fails_is_an_unreachable_host(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    with pytest.raises(UnreachableError):
        connect(settings(host, "-o", "ProxyCommand=false"), ConnectOptions(retries=0))


# --- root -------------------------------------------------------------------------------------------------------------


def test_sudo_without_a_password(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    assert observe(settings(host, user="deploy", become=True)) == 0
    assert observe(settings(host, user="deploy", become=False)) == 1003
    assert observe(settings(host, user="root", become=True)) == 0


def test_sudo_with_a_password_that_stands_in_no_argument_and_no_log(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    wanted = settings(host, user="ops", become=True)
    connection = connect(wanted, ConnectOptions(become_password=OPS_PASSWORD))
    client = AgentClient.start(connection, wanted)
    assert client.observe(ObserveRequest()).uid == 0
    lines = " ".join(host.processes().values())
    assert "sudo -S" in lines
    assert OPS_PASSWORD not in lines
    assert OPS_PASSWORD not in sshd_log(host)
    client.close()
    connection.close()


def test_a_password_that_sudo_does_not_ask_for_goes_nowhere(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    assert observe(settings(host, user="deploy", become=True), ConnectOptions(become_password="unused")) == 0


def test_sudo_that_wants_a_password_is_told_with_both_ways_out(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    with pytest.raises(ElevationError, match=r"^sudo asks for a password$") as caught:
        observe(settings(host, user="ops", become=True))
    assert (
        caught.value.hint == f"add -K, or on {host.name}, in /etc/sudoers.d/reconciler: USER ALL=(root) NOPASSWD: ALL"
    )


def test_a_wrong_password_is_tried_once(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    started = time.monotonic()
    with pytest.raises(ElevationError, match=r"^sudo refused the password$"):
        observe(settings(host, user="ops", become=True), ConnectOptions(become_password="wrong"))
    assert time.monotonic() - started < 10


def test_a_user_who_may_not_use_sudo_is_told(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    with pytest.raises(ElevationError, match=r"^the login user may not use sudo$|^sudo asks for a password$"):
        observe(settings(host, user="alice", become=True))
    with pytest.raises(ElevationError):
        observe(settings(host, user="alice", become=True), ConnectOptions(become_password="any"))


# --- the host's Python and shell --------------------------------------------------------------------------------------


def test_a_missing_interpreter_is_told(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    wanted = ConnectionSettings(host.name, common_args=("-F", str(host.fleet.ssh_config)), python="/opt/none/python3")
    with pytest.raises(PythonError, match=r"^there is no /opt/none/python3: needs Python 3.9$"):
        observe(wanted)
    as_deploy = ConnectionSettings(
        host.name, common_args=wanted.common_args, python="/opt/none/python3", user="deploy", become=True
    )
    with pytest.raises(PythonError, match=r"^there is no /opt/none/python3"):
        observe(as_deploy)


def test_a_shell_that_greets_before_every_command_is_listened_past(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    host.run("echo 'echo Welcome; echo on stderr >&2; printf \"no newline\"' > ~/.bashrc")
    assert host.ssh("true").stdout.startswith("Welcome")
    assert observe(settings(host)) == 0


def test_a_login_shell_that_lets_nobody_in_is_said(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    host.run(
        "usermod -s /usr/sbin/nologin alice || sed -i 's#^\\(alice:.*:\\)[^:]*$#\\1/usr/sbin/nologin#' /etc/passwd"
    )
    with pytest.raises(NotFit, match=r"not available|nologin|did not start"):
        observe(settings(host, user="alice"))


# --- while it runs ----------------------------------------------------------------------------------------------------


def started(host: TestHost) -> tuple[Connection, AgentClient]:
    wanted = settings(host)
    connection = connect(wanted)
    return connection, AgentClient.start(connection, wanted)


def test_a_killed_session_is_a_lost_link(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    connection, client = started(host)
    host.kill_sessions()
    with pytest.raises(LinkLostError):
        client.history(HistoryRequest())
    client.close()
    connection.close()


def test_a_frozen_host_is_a_lost_link_in_time_and_its_lock_is_free_when_it_thaws(
    fleet: MakeFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "SILENCE_SECONDS", 2.0)
    (host,) = fleet(1)
    connection, client = started(host)
    client.begin(BeginRequest("d1", "one", ""))
    host.freeze()
    try:
        before = time.monotonic()
        with pytest.raises(LinkLostError, match=r"silent for 2 s"):
            client.history(HistoryRequest())
        assert time.monotonic() - before < 9
        client.close()
        connection.close()
    finally:
        host.thaw()
    connection, client = started(host)
    client.begin(BeginRequest("d2", "two", ""))
    client.close()
    connection.close()


def test_a_plug_that_is_pulled_in_the_middle_of_a_copy_ends_it(fleet: MakeFleet, store: Store) -> None:
    (host,) = fleet(1)
    paths = [store.add_tree(f"part{number}", nar.File(os.urandom(1_000_000))) for number in range(8)]
    connection, client = started(host)
    client.begin(BeginRequest("d1", "one", ""))

    def read(path: str) -> Iterator[bytes]:
        if path == str(paths[-1]):
            host.kill_sessions()
        return store.nar(StorePath.parse(path))

    with pytest.raises(LinkLostError):
        client.import_paths(messages(store, *paths), read)
    client.close()
    connection.close()
    time.sleep(0.5)
    connection, client = started(host)
    client.begin(BeginRequest("d2", "two", ""))
    client.import_paths(messages(store, *paths), lambda path: store.nar(StorePath.parse(path)))
    assert client.missing(MissingRequest(tuple(str(path) for path in paths))).missing == ()
    client.close()
    connection.close()
    host.verify_store()


@pytest.mark.parametrize("options", [{"read_only_store": True}, {"python": "3.9"}, {"python": "3.13"}])
def test_a_closure_arrives_whole(fleet: MakeFleet, store: Store, options: dict[str, object]) -> None:
    hosts: Fleet = fleet(1, **options)
    (host,) = hosts
    parts = [store.add_tree(f"part{number}", nar.Directory({"a": nar.File(b"x" * number)})) for number in range(5)]
    top = store.add_tree("top", nar.Directory({"l": nar.Link(str(parts[0]))}), parts)
    closure = messages(store, top)
    connection, client = started(host)
    client.begin(BeginRequest("d1", "one", ""))
    client.import_paths(closure, lambda path: store.nar(StorePath.parse(path)))
    assert client.missing(MissingRequest(tuple(path.path for path in closure))).missing == ()
    client.close()
    connection.close()
    host.verify_store()


def test_a_copy_larger_than_a_rekey_goes_on(fleet: MakeFleet, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """New session keys in the middle of the stream, as after 512 MiB."""
    from paramiko.packet import Packetizer

    monkeypatch.setattr(Packetizer, "REKEY_BYTES", 2_000_000)
    (host,) = fleet(1, sshd="RekeyLimit 3M")
    path = store.add_tree("big", nar.File(os.urandom(16_000_000)))
    connection, client = started(host)
    client.begin(BeginRequest("d1", "one", ""))
    assert client.import_paths(messages(store, path), lambda name: store.nar(StorePath.parse(name))).imported == 1
    client.close()
    connection.close()


def test_two_logins_share_no_configuration() -> None:
    # fabric writes a login's arguments, its socket among them, into the configuration that it is given.
    assert ssh._fabric_config() is not ssh._fabric_config()
