"""SSH by fabric and paramiko: the only module that imports them.

fabric holds a login and its jump hosts together; paramiko speaks. What they take on trust is not left to them: host
keys are checked here before a user name or a key is sent (fabric alone would accept and store any), keys are tried in
OpenSSH's order, everything has a deadline, and algorithms are chosen for speed among the safe ones.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import fabric  # type: ignore[import-untyped]  # it has no stubs
import paramiko
from paramiko.agent import AgentSSH
from paramiko.common import cMSG_CHANNEL_REQUEST

from reconciler.core.errors import LinkLostError, ReconcilerError, UnreachableError, UsageError
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport import knownhosts, sshconfig
from reconciler.transport.connection import ConnectOptions, Stream
from reconciler.transport.dial import Deadline, proxy, said, tcp
from reconciler.transport.elevation import Elevation
from reconciler.transport.errors import (
    HostKeyError,
    LoginRefused,
    LoginTimeout,
    NoStrictKeyExchange,
    TooBusy,
    TooManyKeys,
)
from reconciler.transport.knownhosts import HostKey, Names
from reconciler.transport.quoting import command_line
from reconciler.transport.sshconfig import Hop, Target
from reconciler.transport.text import printable

# paramiko logs what it also raises; without a handler Python would print it.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

_PIECE = 65536
_WINDOW = 4 * 1024 * 1024
_MAX_JUMPS = 8
_RETRY_SECONDS = 0.25
_RETRY_LIMIT = 4.0
# How much longer than one login all attempts at one may take together.
_ATTEMPTS_FACTOR = 3.0


# --- where to ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _parsed(text: str) -> paramiko.SSHConfig:
    try:
        return paramiko.SSHConfig.from_text(text)
    except paramiko.SSHException as error:
        raise UsageError(f"ssh configuration: {error}") from error


@lru_cache(maxsize=8)
def _text(file: str | None, own_file: str | None, _stamp: tuple[int, ...]) -> str:
    return sshconfig.merged_text(sshconfig.Arguments(file, ()), own_file)


def _stamp(file: str) -> tuple[int, ...]:
    """What tells whether a file was written since it was read: a test, or a lab, gives hosts new ports."""
    try:
        status = os.stat(os.path.expanduser(file))
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _lookup(text: str, options: Sequence[tuple[str, str]], name: str) -> Target:
    """What the configuration says of a host, behind options that win over it."""
    try:
        base = _parsed(text)
        config = paramiko.SSHConfig.from_text(sshconfig.option_text(options))
        # The file is parsed once for a fleet that it may have thousands of lines about, and asked once for each host.
        config._config = [*config._config, *base._config]  # type: ignore[attr-defined]
        found = config.lookup(sshconfig.check_name(name, "host"))
    except (paramiko.SSHException, ValueError) as error:
        raise UsageError(f"ssh configuration for {name}: {error}") from error
    return sshconfig.read_target(found, name, getpass.getuser())


def _resolve(settings: ConnectionSettings, options: ConnectOptions) -> tuple[Target, str]:
    """Where a host is, and the text that its jump hosts are looked up in."""
    arguments = sshconfig.Arguments.parse(settings.common_args)
    own_file = str(options.ssh_config) if options.ssh_config else None
    text = _text(arguments.file, own_file, _stamp(arguments.file or own_file or sshconfig.USER_CONFIG))
    own = sshconfig.overrides(settings, arguments, options.user)
    return _lookup(text, own, settings.address or settings.host), text


def _hop_target(hop: Hop, text: str) -> Target:
    own = [("Port", str(hop.port))] if hop.port else []
    own += [("User", hop.user)] if hop.user else []
    return _lookup(text, own, hop.host)


# --- the login --------------------------------------------------------------------------------------------------------


class _Transport(paramiko.Transport):
    """paramiko's transport with our choice of algorithms, and with a memory for why the other side hung up."""

    # AES-GCM needs no separate MAC, which halves the cost of a byte here; CBC and SHA-1 are not offered at all.
    _preferred_ciphers = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
    _preferred_macs = (
        "hmac-sha2-256-etm@openssh.com",
        "hmac-sha2-512-etm@openssh.com",
        "hmac-sha2-256",
        "hmac-sha2-512",
    )
    # How often an idle reader looks whether it was closed. We wake it by shutting the socket down.
    _active_check_timeout = 1.0

    known_types: tuple[str, ...] = ()
    disconnect: str = ""

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """Plain keys only, since certificates are not judged here; those that are known of the host first."""
        plain: tuple[str, ...] = self._filter_algorithm("keys")  # type: ignore[attr-defined]  # not in the stubs
        wanted = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
        first = [kind for known in self.known_types for kind in wanted.get(known, (known,)) if kind in plain]
        return tuple(dict.fromkeys([*first, *plain]))

    def _parse_disconnect(self, message: paramiko.Message) -> None:
        message.get_int()
        self.disconnect = printable(message.get_text())[:200]


class _Checked(paramiko.MissingHostKeyPolicy):
    """Judges every host key: paramiko asks it whenever its own lists, which stay empty, do not know the host."""

    def __init__(self, target: Target, host: str) -> None:
        self._names = Names.of(target.host, target.port, target.alias)
        self._known = knownhosts.load(target.known_hosts)
        self._host = host
        self.passed = False
        self.shown: HostKey | None = None

    @property
    def types(self) -> tuple[str, ...]:
        return self._known.types(self._names)

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002  # ours is known
        self.shown = HostKey(key.get_name(), key.get_base64())
        self._known.check(self._names, self.shown, self._host)
        transport = client.get_transport()
        if not getattr(transport, "agreed_on_strict_kex", False):
            raise NoStrictKeyExchange(
                "ssh: the host's server has no strict key exchange (CVE-2023-48795)",
                "update it: OpenSSH 9.6, or the distribution's security update",
            )
        self.passed = True


class _Login:
    """One attempt to log in to one host, over whatever stands before it."""

    def __init__(self, target: Target, text: str, host: str, options: ConnectOptions, deadline: Deadline) -> None:
        self._target = target
        self._text = text
        self._host = host
        self._options = options
        self._deadline = deadline
        self._policy = _Checked(target, host)
        self._opened = contextlib.ExitStack()
        self._transport: _Transport | None = None

    @property
    def shown_key(self) -> HostKey | None:
        """The host key that passed."""
        return self._policy.shown if self._policy.passed else None

    def open(self, depth: int = 0) -> tuple[fabric.Connection, contextlib.ExitStack]:
        """The login, and what has to be closed after it."""
        try:
            sock = self._dial(depth)
            connection = fabric.Connection(
                self._target.host,
                user=self._target.user,
                port=self._target.port,
                config=_fabric_config(),
                gateway=False,
                forward_agent=False,
                connect_kwargs=self._arguments(sock),
            )
            connection.client.set_missing_host_key_policy(self._policy)
            self._opened.callback(_close, connection, sock)
            try:
                connection.open()
            except Exception as error:
                raise self._explain(error) from error
        except BaseException:
            self._opened.close()
            raise
        return connection, self._opened

    def _arguments(self, sock: Any) -> dict[str, Any]:
        left = self._deadline.left
        return {
            "sock": sock,
            "timeout": left,
            "banner_timeout": left,
            "auth_timeout": left,
            "channel_timeout": left,
            "transport_factory": self._make_transport,
            "auth_strategy": _Keys(self._target, self._options, self),
            "allow_agent": None,
        }

    def _make_transport(self, sock: Any, **arguments: Any) -> _Transport:
        self._transport = _Transport(sock, default_window_size=_WINDOW, **arguments)
        self._transport.known_types = self._policy.types
        return self._transport

    @property
    def disconnect(self) -> str:
        return self._transport.disconnect if self._transport else ""

    # --- the way there ------------------------------------------------------------------------------------------------

    def _dial(self, depth: int) -> Any:
        target = self._target
        if target.proxy_command:
            return self._opened.enter_context(proxy(target.proxy_command))
        if target.jumps:
            return self._jump(depth)
        return tcp(target, self._deadline)

    def _jump(self, depth: int) -> Any:
        if depth >= _MAX_JUMPS:
            raise UsageError(f"{self._host}: ProxyJump leads in a circle, or over more than {_MAX_JUMPS} hosts")
        *before, last = self._target.jumps
        hop = _hop_target(last, self._text)
        # The hosts before the last are the last one's own way, in place of what the configuration says of it.
        hop = replace(hop, jumps=tuple(before), proxy_command=None) if before else hop
        try:
            gateway, opened = _Login(hop, self._text, last.host, self._options, self._deadline).open(depth + 1)
        except ReconcilerError as error:
            error.message = f"jump host {last.host}: {error.message}"
            raise
        self._opened.enter_context(opened)
        transport = gateway.client.get_transport()
        try:
            return transport.open_channel(
                "direct-tcpip", (self._target.host, self._target.port), ("", 0), timeout=self._deadline.left
            )
        except paramiko.SSHException as error:
            raise UnreachableError(
                f"ssh: jump host {last.host} cannot reach {self._target.host} port {self._target.port}: {said(error)}"
            ) from error

    # --- what went wrong ----------------------------------------------------------------------------------------------

    def _explain(self, error: Exception) -> ReconcilerError:
        if isinstance(error, ReconcilerError):
            return error
        if time.monotonic() >= self._deadline.at or isinstance(error, TimeoutError) or "imeout" in str(error):
            return LoginTimeout(f"ssh: connection timed out after {self._deadline.seconds:g} s")
        if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
            return UnreachableError(f"ssh: no algorithm in common: {said(error)}", "update the SSH server there")
        if not self._policy.passed and _is_drop(error):
            return _Dropped(
                f"ssh: the host hung up before the login{': ' + self.disconnect if self.disconnect else ''}"
            )
        if isinstance(error, paramiko.SSHException) and "protocol" in str(error):
            return UnreachableError(f"ssh: what answers there is no SSH server: {said(error)}")
        return UnreachableError(f"ssh: {said(error)}{': ' + self.disconnect if self.disconnect else ''}")


class _Dropped(UnreachableError):  # noqa: N818  # as in errors.py
    """The connection ended before the login began: worth another try."""


def _is_drop(error: Exception) -> bool:
    """Whether the server hung up before it said who it is, as sshd does past MaxStartups."""
    if isinstance(error, (EOFError, ConnectionResetError, BrokenPipeError)):
        return True
    text = str(error)
    return isinstance(error, paramiko.SSHException) and (
        "Error reading SSH protocol banner" in text
        or "Exceeded MaxStartups" in text
        or "Not allowed at this time" in text
    )


def _fabric_config() -> fabric.Config:
    """A login's own: fabric writes what it is given into it, so that two threads must never have the same one.

    Its ssh configuration is empty: what is to be known of the host is known, and files of fabric's own have no say.
    """
    return fabric.Config(ssh_config=paramiko.SSHConfig(), lazy=True)


def _close(connection: fabric.Connection, sock: Any) -> None:
    # The reader sits in recv; shutting the socket down wakes it, closing alone would leave it there for a while.
    with contextlib.suppress(OSError, EOFError):
        sock.shutdown(socket.SHUT_RDWR)
    connection.client.close()


# --- keys -------------------------------------------------------------------------------------------------------------


class _Agent(AgentSSH):
    """An ssh agent at a given socket (IdentityAgent)."""

    def __init__(self, path: str) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(10)
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined]  # not in the stubs
        except (OSError, paramiko.SSHException):
            connection.close()
            raise

    def close(self) -> None:
        self._close()  # type: ignore[attr-defined]


class _Keys:
    """Tries keys in OpenSSH's order: those of the agent that the configuration names, the agent's others (unless
    IdentitiesOnly), then the files that the agent does not hold."""

    def __init__(self, target: Target, options: ConnectOptions, login: _Login) -> None:
        self._target = target
        self._options = options
        self._login = login
        self._tried: list[str] = []
        self._left_out: list[str] = []
        self._allowed: list[str] = []

    def authenticate(self, transport: paramiko.Transport) -> None:
        """Log in, or raise LoginRefused."""
        agent = self._open_agent()
        try:
            for name, key in self._keys(agent):
                if self._try(transport, name, key):
                    return
        finally:
            if agent is not None:
                agent.close()
        raise self._refused()

    def _try(self, transport: paramiko.Transport, name: str, key: paramiko.PKey) -> bool:
        self._tried.append(name)
        try:
            more = transport.auth_publickey(self._target.user, key)
        except paramiko.BadAuthenticationType as error:
            self._allowed = list(error.allowed_types)
            raise self._refused() from error
        except (paramiko.SSHException, EOFError, OSError) as error:
            if not transport.is_active():
                raise self._hung_up(error) from error
            if "timeout" in str(error).lower():
                raise TimeoutError(str(error)) from error
            return False
        if more:
            raise LoginRefused(f"ssh: {self._target.user}: the host wants more than a key: {', '.join(more)}")
        return True

    def _keys(self, agent: _Agent | None) -> Iterator[tuple[str, paramiko.PKey]]:
        held: list[Any] = list(agent.get_keys()) if agent is not None else []
        named = {blob: path for path in self._target.identities if (blob := _public_blob(path))}
        given = set()
        for key in sorted(held, key=lambda key: key.asbytes() not in named):
            blob = key.asbytes()
            if blob in named:
                given.add(named[blob])
            elif self._target.identities_only:
                continue
            yield f"agent: {named.get(blob) or printable(key.comment or key.get_name())}", key
        for path in self._target.identities:
            if path in given:
                continue
            loaded = self._load(path)
            if loaded is not None:
                yield path, loaded

    def _load(self, path: str) -> paramiko.PKey | None:
        if not os.path.exists(path):
            return None
        try:
            stamp = os.stat(path).st_mtime_ns
            try:
                return _private_key(path, stamp, None, self._target.certificates)
            except (TypeError, paramiko.PasswordRequiredException):
                ask = self._options.ask_password
                password = ask(f"Passphrase of {path}: ") if ask else None
                if password is None:
                    self._left_out.append(f"{path} needs a passphrase")
                    return None
                return _private_key(path, stamp, password, self._target.certificates)
        except (OSError, ValueError, TypeError, paramiko.SSHException) as error:
            self._left_out.append(f"{path}: {said(error)}")
            return None
        except paramiko.pkey.UnknownKeyType:
            self._left_out.append(f"{path}: a kind of key that is not known here")
            return None

    def _open_agent(self) -> _Agent | None:
        wanted = self._target.identity_agent or "SSH_AUTH_SOCK"
        if wanted == "none":
            return None
        if wanted == "SSH_AUTH_SOCK" or wanted.startswith("$"):
            path = os.environ.get(wanted.strip("${}"), "")
        else:
            path = os.path.expanduser(wanted)
        try:
            return _Agent(path) if path else None
        except (OSError, paramiko.SSHException):
            return None

    def _hung_up(self, error: Exception) -> ReconcilerError:
        words = self._login.disconnect
        if "oo many" in words:
            return TooManyKeys(
                f"ssh: {self._target.user}: the host hung up after {len(self._tried)} keys: {words}",
                "name the right one: IdentityFile, IdentitiesOnly yes in ~/.ssh/config; ansible_ssh_private_key_file",
            )
        return LoginRefused(f"ssh: {self._target.user}: the host hung up during the login: {words or said(error)}")

    def _refused(self) -> LoginRefused:
        tried = ", ".join(self._tried) or "no key was found"
        left_out = f"; left out: {'; '.join(self._left_out)}" if self._left_out else ""
        wants = f"; the host takes {', '.join(self._allowed)}" if self._allowed else ""
        return LoginRefused(
            f"ssh: {self._target.user}: permission denied ({tried}){left_out}{wants}",
            "ssh-add the key" if self._left_out else f"does it work by hand?  ssh {self._target.name}",
        )


@lru_cache(maxsize=64)
def _private_key(path: str, stamp: int, password: str | None, certificates: tuple[str, ...]) -> paramiko.PKey:  # noqa: ARG001  # `stamp` makes a changed file another key
    key = paramiko.PKey.from_path(path, password.encode() if password is not None else None)  # type: ignore[arg-type]
    for certificate in certificates:
        if os.path.exists(certificate) and _same_key(certificate, key):
            key.load_certificate(certificate)
    return key


def _same_key(certificate: str, key: paramiko.PKey) -> bool:
    with contextlib.suppress(OSError, ValueError, paramiko.SSHException):
        copy = paramiko.PKey.from_type_string(key.get_name(), key.asbytes())
        copy.load_certificate(certificate)
        return True
    return False


def _public_blob(path: str) -> bytes | None:
    """The public half beside a private key: the agent's keys are told apart by it."""
    import base64

    try:
        with open(path + ".pub", encoding="ascii") as file:
            return base64.b64decode(file.read(65536).split()[1])
    except (OSError, ValueError, IndexError):
        return None


# --- a connection -----------------------------------------------------------------------------------------------------


def open_ssh(settings: ConnectionSettings, options: ConnectOptions) -> SshConnection:
    """Log in. A connection that is dropped before the login is dialled again, a few times, ever later and at random."""
    target, text = _resolve(settings, options)
    overall = time.monotonic() + _ATTEMPTS_FACTOR * settings.timeout
    attempt = 0
    while True:
        attempt += 1
        try:
            login = _Login(target, text, settings.host, options, Deadline.within(settings.timeout))
            connection, opened = login.open()
        except _Dropped as error:
            pause = random.uniform(0.5, 1.0) * min(_RETRY_LIMIT, _RETRY_SECONDS * 2**attempt)  # noqa: S311  # no secret
            if attempt > options.retries or time.monotonic() + pause >= overall:
                raise TooBusy(
                    f"{error.message} ({attempt} times)",
                    "sshd drops logins past MaxStartups; lower --forks, or raise it there",
                ) from error
            time.sleep(pause)
        else:
            return SshConnection(settings, options, target, connection, opened)


def scan(settings: ConnectionSettings, options: ConnectOptions) -> tuple[Names, HostKey, str]:
    """The key that a host shows, the name that known_hosts has for it, and the file to write it to. Nothing is sent."""
    target, text = _resolve(settings, options)
    names = Names.of(target.host, target.port, target.alias)
    login = _Login(target, text, settings.host, options, Deadline.within(settings.timeout))
    try:
        _, opened = login.open()
    except HostKeyError as error:
        if error.name != names.name:
            raise  # a jump host's, which has to be trusted first
        return names, HostKey(error.key_type, error.key), target.known_hosts[0]
    except LoginRefused:
        pass  # the key passed
    else:
        opened.close()
    shown = login.shown_key
    if shown is None:
        raise UnreachableError(f"ssh: {settings.host} showed no key")
    return names, shown, target.known_hosts[0]


class SshConnection:
    """One login."""

    def __init__(
        self,
        settings: ConnectionSettings,
        options: ConnectOptions,
        target: Target,
        connection: fabric.Connection,
        opened: contextlib.ExitStack,
    ) -> None:
        self._settings = settings
        self._options = options
        self._target = target
        self._connection = connection
        self._opened = opened
        self.description = f"ssh {target.name}"

    def start(self, argv: Sequence[str], as_root: bool) -> SshChannel:
        elevation = None
        words = list(argv)
        if as_root and self._target.user != "root":
            settings = self._settings
            elevation = Elevation(
                settings.become_user, settings.become_method, self._options.become_password, settings.host
            )
            words = elevation.wrap(argv)
        transport: paramiko.Transport = self._connection.client.get_transport()
        try:
            channel = transport.open_session(window_size=_WINDOW, timeout=self._settings.timeout)
            started = SshChannel(channel, elevation)
            _execute(channel, command_line(["exec", *words]))
        except (paramiko.SSHException, EOFError, OSError, AttributeError) as error:
            raise LinkLostError(
                f"{self.description}: no program could be started: {said(error)}",
                "does sshd there allow sessions (MaxSessions, ForceCommand)?",
            ) from error
        return started

    def close(self) -> None:
        self._opened.close()


def _execute(channel: paramiko.Channel, command: str) -> None:
    """Ask for a program without waiting for the answer: a refusal shows as the channel's end, and paramiko would wait
    for it without a deadline."""
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("exec")
    message.add_boolean(False)
    message.add_string(command)
    transport: Any = channel.transport
    transport._send_user_message(message)


class SshChannel:
    """A program on the host."""

    def __init__(self, channel: paramiko.Channel, elevation: Elevation | None) -> None:
        self.elevation = elevation
        self._channel = channel
        self._arrived = threading.Event()
        # One event for both streams: see pump.py for why they are read by one loop.
        channel.in_buffer.set_event(self._arrived)
        channel.in_stderr_buffer.set_event(self._arrived)

    def read(self, timeout: float) -> tuple[Stream, bytes] | None:
        channel = self._channel
        until = time.monotonic() + timeout
        while True:
            ended = channel.closed or channel.eof_received
            if channel.recv_ready():
                return Stream.OUT, channel.recv(_PIECE)
            if channel.recv_stderr_ready():
                return Stream.ERR, channel.recv_stderr(_PIECE)
            if ended:
                return Stream.END, b""
            if not self._arrived.wait(max(0.0, until - time.monotonic())):
                return None

    def write(self, data: bytes | memoryview, timeout: float) -> None:
        view = memoryview(data)
        self._channel.settimeout(timeout)
        try:
            while view:
                sent = self._channel.send(bytes(view[:_PIECE]))
                if sent == 0:
                    raise LinkLostError("the connection was closed")
                view = view[sent:]
        except TimeoutError as error:
            raise LinkLostError(f"the host took nothing for {timeout:.0f} s") from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise LinkLostError(f"the connection broke: {said(error)}") from error

    def writable(self) -> bool:
        channel = self._channel
        return not channel.closed and not channel.eof_sent and channel.out_window_size > _PIECE

    def end_input(self) -> None:
        try:
            self._channel.shutdown_write()
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise LinkLostError(f"the connection broke: {said(error)}") from error

    def exit_status(self, timeout: float) -> int | None:
        if not self._channel.status_event.wait(timeout) or self._channel.exit_status < 0:
            return None
        return self._channel.exit_status

    def close(self) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()
