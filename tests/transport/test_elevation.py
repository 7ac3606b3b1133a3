"""Becoming root: the password goes to the prompt that is ours, once, and into nothing else."""

from __future__ import annotations

import pytest

from reconciler.core.agent.messages import HistoryRequest
from reconciler.core.errors import UsageError
from reconciler.transport.connection import ConnectOptions
from reconciler.transport.elevation import Elevation
from reconciler.transport.errors import ElevationError
from tests.transport.channels import end_all, start

PASSWORD = "canary-hunter2"


def with_password() -> Elevation:
    return Elevation("root", "sudo", PASSWORD, "web01")


def prompt_of(elevation: Elevation) -> str:
    argv = elevation.wrap(["id"])
    return argv[argv.index("-p") + 1]


def test_without_a_password_sudo_is_told_not_to_ask() -> None:
    assert Elevation("root", "sudo", None, "web01").wrap(["id", "-u"]) == [
        "env", "LC_ALL=C", "sudo", "-n", "--", "id", "-u",
    ]  # fmt: skip


def test_with_one_the_prompt_is_another_each_time_and_the_password_in_no_argument() -> None:
    one, other = with_password(), with_password()
    assert prompt_of(one) != prompt_of(other)
    assert PASSWORD not in " ".join(one.wrap(["id"]))
    assert "-S" in one.wrap(["id"])
    assert PASSWORD not in repr(one) + repr(ConnectOptions(become_password=PASSWORD))


def test_another_user_is_named() -> None:
    assert Elevation("deployer", "sudo", None, "h").wrap(["id"])[-4:] == ["-u", "deployer", "--", "id"]


def test_the_password_is_given_to_our_prompt_only_and_once() -> None:
    elevation = with_password()
    assert elevation.answer("Password: [sudo] password for ops:") is None
    assert elevation.answer(f"lecture\n{prompt_of(elevation)}") == f"{PASSWORD}\n".encode()
    assert elevation.answer(f"lecture\n{prompt_of(elevation)}") is None


def test_a_second_prompt_means_that_the_password_was_wrong() -> None:
    elevation = with_password()
    elevation.answer(prompt_of(elevation))
    with pytest.raises(ElevationError, match="sudo refused the password") as caught:
        elevation.answer(f"{prompt_of(elevation)}Sorry, try again.\n{prompt_of(elevation)}")
    assert "-K" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("sudo: a password is required\n", "sudo asks for a password"),
        ("sudo: 3 incorrect password attempts\n", "sudo refused the password"),
        ("sudo: sorry, you must have a tty to run sudo\n", r"sudo asks for a terminal \(requiretty\)"),
        ("ops is not in the sudoers file.  This incident will be reported.\n", "the login user may not use sudo"),
        ("Sorry, user ops may not run sudo on web01.\n", "the login user may not use sudo"),
        ("Sorry, user ops is not allowed to execute '/usr/bin/python3' as root on web01.\n", "may not run the agent"),
        ("env: 'sudo': No such file or directory\n", "there is no sudo"),
        ("env: can't execute 'sudo': No such file or directory\n", "there is no sudo"),
    ],
)
def test_what_sudo_says_is_said_in_our_words(stderr: str, message: str) -> None:
    explained = Elevation("root", "sudo", None, "web01").explain(stderr)
    assert explained is not None
    with pytest.raises(ElevationError, match=message):
        raise explained


def test_the_hint_for_a_password_names_both_ways() -> None:
    explained = Elevation("root", "sudo", None, "web01").explain("sudo: a password is required\n")
    assert explained is not None
    assert explained.hint == "add -K, or on web01, in /etc/sudoers.d/reconciler: USER ALL=(root) NOPASSWD: ALL"


def test_other_words_are_not_sudo_s() -> None:
    assert Elevation("root", "sudo", None, "web01").explain("Traceback (most recent call last):\n") is None


def test_another_way_to_become_root_is_refused() -> None:
    with pytest.raises(UsageError, match="become method 'su' is not supported"):
        Elevation("root", "su", None, "web01")


# A sudo that asks and checks, on the streams of the channel.
ASKING = """
prompt, password, tries = {prompt!r}, {password!r}, 0
while True:
    os.write(2, b"We trust you have received the usual lecture.\\n" + prompt.encode())
    line = b""
    while not line.endswith(b"\\n"):
        piece = os.read(0, 1)
        if not piece: sys.exit(1)
        line += piece
    if line.decode() == password + "\\n": break
    os.write(2, b"\\nSorry, try again.\\n")
hello(); out(frame(REPLY, asked(), {{"entries": []}}))
"""


def test_an_agent_behind_a_password_starts() -> None:
    elevation = with_password()
    client = start(ASKING.format(prompt=prompt_of(elevation), password=PASSWORD), elevation)
    assert client.history(HistoryRequest()).entries == ()
    client.close()
    end_all()


def test_a_wrong_password_is_given_once_and_the_start_ends() -> None:
    elevation = with_password()
    with pytest.raises(ElevationError, match="sudo refused the password"):
        start(ASKING.format(prompt=prompt_of(elevation), password="another"), elevation)
    end_all()


def test_a_program_that_prints_the_prompt_later_gets_nothing() -> None:
    """Only the start is answered: what prints the prompt afterwards, say a build, talks to nobody."""
    elevation = with_password()
    program = (
        f"hello(); n = asked(); os.write(2, {prompt_of(elevation)!r}.encode())\n"
        "import select\n"
        "heard = os.read(0, 100) if select.select([0], [], [], 1.0)[0] else b''\n"
        "out(frame(REPLY, n, {'entries': []}) if not heard else frame(ERROR, n, {'message': 'heard'}))"
    )
    client = start(program, elevation)
    assert client.history(HistoryRequest()).entries == ()
    client.close()
    end_all()
