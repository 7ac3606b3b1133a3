"""One word comes back as one word from every shell that somebody may log in with."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from reconciler.core.agent import bootstrap
from reconciler.core.agent.frames import MAGIC
from reconciler.core.errors import UsageError
from reconciler.transport.quoting import command_line, quote

SHELLS = [shell for shell in ("sh", "dash", "bash", "zsh", "ksh", "mksh", "csh", "tcsh", "fish") if shutil.which(shell)]
WORDS = [
    "plain",
    "",
    " ",
    "two words",
    "it's",
    "''",
    'say "hi"',
    "$HOME ${HOME} $(id) `id`",
    "a!b !! !1",
    "back\\slash \\' \\\\ \\n",
    "* ? [a-z] ~ {a,b}",
    "a;b|c&d>e<f#g(h)",
    "-n",
    "--",
    "=x",
    "\t tab",
    "émoji ☃",
    "%d %s",
    "^a^b",
]


@pytest.mark.parametrize("shell", SHELLS)
def test_words_come_back_as_they_were(shell: str) -> None:
    words = [*WORDS, bootstrap.code()]
    line = command_line(["exec", "printf", "%s\\0", *words])
    done = subprocess.run([shell, "-c", line], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


@pytest.mark.parametrize("word", ["a\nb", "a\rb", "a\0b"])
def test_a_word_that_csh_could_not_read_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="line break or NUL"):
        quote(word)


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        ("python3", "python3"),
        ("/usr/bin/python3.9", "/usr/bin/python3.9"),
        ("", "''"),
        ("a b", "'a b'"),
        ("it's", "'it'\\''s'"),
        ("a!b", "'a'\\!'b'"),
        ("a\\b", "'a'\\\\'b'"),
        ("a\n", None),
    ],
)
def test_what_needs_no_quotes_gets_none(word: str, quoted: str | None) -> None:
    if quoted is None:
        with pytest.raises(UsageError):
            quote(word)
    else:
        assert quote(word) == quoted


@pytest.mark.parametrize("shell", SHELLS)
def test_the_agent_s_line_starts_it_from_every_shell(shell: str) -> None:
    argv = ["exec", "env", "LC_ALL=C", sys.executable, "-I", "-S", "-c", bootstrap.code(), "0" * 64, "/none", "-", "/"]
    done = subprocess.run([shell, "-c", command_line(argv)], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert done.stdout.endswith(MAGIC + b"S")
