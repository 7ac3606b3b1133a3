from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.cli.main import error_text, guarded, run
from reconciler.cli.output import visible
from reconciler.core.errors import Faults, InternalError, ReconcilerError, RefusedError, UsageError

PROGRAM = [sys.executable, "-m", "reconciler.cli.main"]


def test_an_error_is_what_is_wrong_and_what_to_do() -> None:
    assert error_text(
        UsageError("pattern 'web:!web03': '!web03' excludes no host", "did you mean web03.shop.example?")
    ) == ("error: pattern 'web:!web03': '!web03' excludes no host\nhint:  did you mean web03.shop.example?\n")


def test_lines_after_the_first_stand_below_it() -> None:
    error = UsageError(
        "a.yml:4:13: 'nginx' is declared twice\na.yml:4:13  nginx@1.24\n       b.yml:7:13  nginx@1.26", "one\ntwo"
    )
    assert error_text(error) == (
        "error: a.yml:4:13: 'nginx' is declared twice\n"
        "       a.yml:4:13  nginx@1.24\n"
        "       b.yml:7:13  nginx@1.26\n"
        "hint:  one\n"
        "       two\n"
    )


def test_faults_of_faults_keep_their_hints() -> None:
    faults = Faults([Faults([UsageError("one", "mend one"), UsageError("two")]), UsageError("three", "mend three")])
    assert error_text(faults) == "error: one\nhint:  mend one\n\nerror: two\n\nerror: three\nhint:  mend three\n"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "this machine: No space left on device\nhint:  make room there",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/root/x"),
            "/root/x: Permission denied\nhint:  who runs the command may not do that",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", b"/x"),
            "/x: Read-only file system\nhint:  it is mounted read-only",
        ),
    ],
)
def test_what_the_machine_refuses_is_no_fault_of_ours(
    error: OSError, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> int:
        raise error

    assert guarded(body) == 3
    assert capsys.readouterr().err == f"error: {text}\n"


@pytest.mark.parametrize(("closed", "status"), [(">&-", 0), ("2>&-", 0), ("<&-", 0), ("<&- >&- 2>&-", 0)])
def test_a_stream_that_was_closed_by_the_caller_is_nobody_who_reads(closed: str, status: int) -> None:
    command = f"{' '.join(PROGRAM)} --version {closed}; exit $?"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")


def test_several_faults_are_told_one_below_the_other_each_once() -> None:
    faults = Faults([UsageError("one", "mend one"), UsageError("two"), UsageError("one", "mend one")])
    assert error_text(faults) == "error: one\nhint:  mend one\n\nerror: two\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("x"), 2),
        (RefusedError("x"), 7),
        (ReconcilerError("x"), 3),
        (InternalError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_the_exit_status_is_the_errors_own(
    error: BaseException, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def body() -> int:
        raise error

    assert guarded(body) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err in ("error: x\n", "error: interrupted\n")


def test_a_fault_of_our_own_is_one_line_and_its_traceback_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("RECONCILER_DEBUG", raising=False)

    def body() -> int:
        raise KeyError("two\nlines")

    assert guarded(body) == 1
    error, hint = capsys.readouterr().err.splitlines()
    assert error == r"error: this is a fault of reconciler itself: KeyError: 'two\nlines'"
    (kept,) = (tmp_path / "reconciler" / "faults").iterdir()
    assert hint == f"hint:  the traceback is in {kept}; please report it"
    assert "Traceback" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_traceback_is_shown_to_who_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("RECONCILER_DEBUG", "1")

    def body() -> int:
        raise KeyError("x")

    assert guarded(body) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_host_cannot_drive_the_terminal() -> None:
    assert visible("a\x1b[2Jb\x07\tc\nd\x9b\u202e") == "a\\x1b[2Jb\\x07\tc\nd\\x9b\\u202e"
    assert error_text(ReconcilerError("\x1b]0;owned\x07")) == "error: \x1b]0;owned\x07\n"


@pytest.mark.parametrize(
    ("program", "arguments", "error", "hint"),
    [
        ("reconciler", ["deplyo"], "no such command 'deplyo'", "did you mean 'deploy'?"),
        ("reconciler", ["xyzzy"], "no such command 'xyzzy'", "reconciler --help"),
        ("reconciler", ["--frobnicate"], "no such option '--frobnicate' for reconciler", "reconciler --help"),
        (
            "reconciler",
            ["-i", "inventories/shop", "plan"],
            "no such option '-i' for reconciler",
            "options stand behind the command: reconciler plan -i …",
        ),
        ("reconciler", ["lab"], "reconciler lab needs up|down|list|stop|start", "reconciler lab --help"),
        ("reconciler", ["trust"], "reconciler trust needs HOST...", "reconciler trust --help"),
        (
            "reconciler",
            ["plan", "--host", "x"],
            "no such option '--host' for reconciler plan",
            "did you mean '--hosts'?",
        ),
        (
            "reconciler",
            ["plan", "web01"],
            "reconciler plan takes no argument 'web01'",
            "did you mean reconciler plan --hosts 'web01'?",
        ),
        ("deploy", ["web*"], "deploy needs --hosts PATTERN", "deploy --help"),
        ("deploy", ["--hosts"], "option '--hosts' requires an argument", "deploy --help"),
        ("deploy", ["--hosts", "a", "b"], "deploy takes no argument 'b'", "did you mean deploy --hosts 'b'?"),
        (
            "deploy",
            ["--hosts", "a", "--action", "swich"],
            "--action: 'swich' is not one of switch, boot, test, stage, build; did you mean 'switch'?",
            "deploy --help",
        ),
        (
            "deploy",
            ["--hosts", "a", "-f", "many"],
            "--forks: 'many' is not a number of hosts from 1 to 10000",
            "deploy --help",
        ),
        ("deploy", ["--hosts", "a", "--yes=many"], "--yes=many: a number of hosts was expected", "--yes, or --yes=3"),
        ("reconciler", ["why", "web01"], "reconciler why needs NAME", "reconciler why --help"),
        (
            "reconciler",
            ["rollback", "--to", "0", "--hosts", "a"],
            "--to: '0' is not a generation's number",
            "reconciler rollback --help",
        ),
        (
            "reconciler",
            ["build", "--system", "arm64-linux", "a"],
            "--system: 'arm64-linux' is not a system; did you mean 'aarch64-linux'?",
            "reconciler build --help",
        ),
        ("reconciler", ["lab", "upp"], "lab upp: not one of up, down, list, stop, start", "did you mean 'up'?"),
        ("reconciler", ["lab", "stop"], "lab stop needs HOST", "reconciler lab list"),
        (
            "reconciler",
            ["history", "k7", "--host", "web01"],
            "history takes a deployment or hosts, not both",
            "leave one of them out",
        ),
    ],
)
def test_a_wrong_command_line_is_told_in_our_own_words(
    program: str, arguments: list[str], error: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(program, arguments) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {error}\nhint:  {hint}\n"
    assert captured.out == ""


def test_help_is_data_and_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    from reconciler.cli.app import COMMANDS

    assert run("reconciler", ["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


def test_a_bare_command_shows_help_and_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reconciler", []) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage: reconciler" in captured.err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from reconciler import __version__

    assert run("reconciler", ["--version"]) == 0
    assert capsys.readouterr().out == f"reconciler {__version__}\n"


@pytest.mark.parametrize("name", ["plan", "deploy", "rollback", "status", "doctor", "generations", "history", "why",
                                  "inventory", "trust", "init", "lab"])  # fmt: skip
def test_every_command_has_help_and_a_page_in_the_manual(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("reconciler", [name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: reconciler {name}")
    page = Path(__file__).parents[2] / "docs" / "commands" / f"{name}.md"
    assert page.read_text().startswith(f"# {'reconciler ' if name != 'deploy' else ''}{name}\n")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from reconciler.cli.main import run; run('reconciler', ['--help']);"
        "run('reconciler', ['deploy', '--help']);"
        "heavy = {'fabric', 'paramiko', 'pydantic', 'jinja2', 'yaml', 'rich', 'cryptography', 'sqlite3', 'asyncio'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", '"$@" | head -c 1 >/dev/null; exit 0', "sh", *PROGRAM, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""


def test_a_closed_stdout_does_not_hide_the_exit_status() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*PROGRAM, "--version"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
