"""The SSH server of a lab host: paramiko's server side in front of `session`.

One process serves one host and accepts one public key for every account of the host's passwd. No passwords, no
forwarding, no host-based logins: it is for this machine's own user, listens on the loopback interface, and is no sshd.
"""

from __future__ import annotations

import base64
import io
import logging
import pwd
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import paramiko
from paramiko.common import (
    AUTH_FAILED,
    AUTH_SUCCESSFUL,
    OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED,
    OPEN_SUCCEEDED,
    cMSG_CHANNEL_REQUEST,
)

from reconciler.lab.session import Login, Size, Terminal, run

_log = logging.getLogger(__name__)

# Where distributions keep the program behind `sftp` and `scp`.
_SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server")

_ACCEPTED_VARIABLES = ("LANG", "LC_")

# Signals have names on the wire (RFC 4254, 6.10); an unknown one is sent as TERM.
_SIGNAL_NAMES = {1: "HUP", 2: "INT", 3: "QUIT", 6: "ABRT", 8: "FPE", 9: "KILL", 11: "SEGV", 13: "PIPE", 14: "ALRM"}


@dataclass(frozen=True)
class HostServer:
    """What a host's server needs: a listening socket, its own key, the one key that logs in, PATH."""

    listener: socket.socket
    host_key: paramiko.PKey
    authorized: paramiko.PKey
    path: str

    def serve(self) -> int:
        """Accept connections for ever."""
        while True:
            connection, client = self.listener.accept()
            threading.Thread(target=self._connection, args=(connection, client), daemon=True).start()

    def _connection(self, connection: socket.socket, client: tuple[str, int]) -> None:
        transport = paramiko.Transport(connection)
        try:
            transport.local_version = "SSH-2.0-reconciler_lab"
            transport.add_server_key(self.host_key)
            server = connection.getsockname()[:2]
            transport.start_server(server=_Connection(self, transport, client[:2], server))
            _hold_channels(transport)
        except (paramiko.SSHException, EOFError, OSError) as error:
            _log.info("%s:%s: %s", *client[:2], error)
        finally:
            transport.close()


def _hold_channels(transport: paramiko.Transport) -> None:
    """Until the connection ends. paramiko closes a channel that nobody refers to, also before its first request."""
    channels: list[paramiko.Channel] = []
    while transport.is_active():
        channel = transport.accept(timeout=60)
        channels = [held for held in channels if not held.closed]
        if channel is not None:
            channels.append(channel)


class _ChannelStream:
    """A paramiko channel as `session` sees it."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel

    def receive(self) -> bytes:
        return self._channel.recv(32 * 1024)

    def send(self, data: bytes) -> None:
        self._channel.sendall(data)

    def send_error(self, data: bytes) -> None:
        self._channel.sendall_stderr(data)


class _Connection(paramiko.ServerInterface):
    """One client's connection; the methods run in its transport's thread and must not block."""

    def __init__(
        self, host: HostServer, transport: paramiko.Transport, client: tuple[str, int], server: tuple[str, int]
    ) -> None:
        self._host = host
        self._transport = transport
        self._client = client
        self._server = server
        self._terminals: dict[int, Terminal] = {}
        self._variables: dict[int, dict[str, str]] = {}

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        try:
            pwd.getpwnam(username)
        except KeyError:
            return AUTH_FAILED
        return AUTH_SUCCESSFUL if key.asbytes() == self._host.authorized.asbytes() else AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED if kind == "session" else OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED

    def check_channel_env_request(self, channel: paramiko.Channel, name: bytes, value: bytes) -> bool:
        variable = _text(name)
        if not variable.startswith(_ACCEPTED_VARIABLES):
            return False
        self._variables.setdefault(channel.get_id(), {})[variable] = _text(value)
        return True

    def check_channel_pty_request(
        self,
        channel: paramiko.Channel,
        term: bytes,
        width: int,
        height: int,
        pixelwidth: int,
        pixelheight: int,
        modes: bytes,
    ) -> bool:
        self._terminals[channel.get_id()] = Terminal(_text(term), Size(width, height))
        return True

    def check_channel_window_change_request(
        self, channel: paramiko.Channel, width: int, height: int, pixelwidth: int, pixelheight: int
    ) -> bool:
        terminal = self._terminals.get(channel.get_id())
        if terminal is not None:
            terminal.resize(Size(width, height))
        return terminal is not None

    def check_channel_shell_request(self, channel: paramiko.Channel) -> bool:
        return self._begin(channel, None)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        return self._begin(channel, _text(command))

    def check_channel_subsystem_request(self, channel: paramiko.Channel, name: str) -> bool:
        program = next((path for path in _SFTP_SERVERS if name == "sftp" and Path(path).exists()), None)
        return program is not None and self._begin(channel, program)

    def _begin(self, channel: paramiko.Channel, command: str | None) -> bool:
        threading.Thread(target=self._session, args=(channel, command), daemon=True).start()
        return True

    def _session(self, channel: paramiko.Channel, command: str | None) -> None:
        number = channel.get_id()
        login = Login(self._transport.get_username() or "", self._host.path, self._client, self._server)
        variables = self._variables.pop(number, {})
        try:
            status = run(_ChannelStream(channel), login, command, self._terminals.get(number), variables)
            _send_status(channel, status)
        except OSError as error:
            _log.warning("%s: %s", command, error)
        finally:
            self._terminals.pop(number, None)
            channel.close()


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


def _send_status(channel: paramiko.Channel, status: int) -> None:
    if status >= 0:
        channel.send_exit_status(status)
        return
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string("exit-signal")
    message.add_boolean(False)
    message.add_string(_SIGNAL_NAMES.get(-status, "TERM"))
    message.add_boolean(False)
    message.add_string("")
    message.add_string("")
    # paramiko has no call for it; this is what its send_exit_status does.
    cast("Any", channel.transport)._send_user_message(message)


def load_key(text: str) -> paramiko.PKey:
    """A private key in OpenSSH's format."""
    return paramiko.Ed25519Key.from_private_key(io.StringIO(text))


def parse_public_key(line: str) -> paramiko.PKey:
    """The key of a line of authorized_keys."""
    return paramiko.Ed25519Key(data=base64.b64decode(line.split()[1]))
