"""Which Debian packages the big channel is made from, and what becomes one derivation.

What is wanted comes with all that it depends on, as apt would install it into an empty system. Packages that exclude
each other are asked for in turns.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.packages.channel import ARM, X86

SHELL = "bash"
LIBC = "libc6"

# By system: one turn a line.
WANTED: Mapping[str, tuple[str, ...]] = {
    X86: (
        (
            "bash coreutils sed grep tar gzip xz-utils bzip2 zstd findutils diffutils gawk less tree jq htop tmux "
            "rsync curl wget git vim-tiny vim-nox busybox sqlite3 python3 perl postgresql-15 nginx-light redis-server "
            "cmake gdb strace file tzdata openssh-client libssl-dev zlib1g-dev libcurl4-openssl-dev libsqlite3-dev "
            "iso-codes"
        ),
        "busybox-static",
    ),
    ARM: (
        "bash coreutils less tree jq htop sqlite3 curl python3 busybox tzdata iso-codes zlib1g-dev ncdu",
        "busybox-static",
    ),
}

# A derivation of several packages, where a program looks for the rest of itself beside it.
TOGETHER: Mapping[str, tuple[str, ...]] = {
    "python3": (
        "python3.11",
        "python3.11-minimal",
        "libpython3.11-minimal",
        "libpython3.11-stdlib",
        "libpython3.11",
        "python3",
        "python3-minimal",
        "libpython3-stdlib",
    ),
}

# What a derivation is called, where that is not the package's own name; two of one name and version are twins.
CALLED: Mapping[str, str] = {
    LIBC: "glibc",
    "zlib1g": "zlib",
    "vim-tiny": "vim",
    "vim-nox": "vim",
    "busybox-static": "busybox",
    "libcurl4": "libcurl",
    "libcurl3-gnutls": "libcurl",
}

# What only the scripts of an installation need.
LEFT_OUT = frozenset(
    {"adduser", "ca-certificates", "cdebconf", "debconf", "dpkg", "init-system-helpers", "install-info", "iproute2"}
    | {"gcc-12-base", "lsb-base", "mailcap", "media-types", "passwd", "perl-modules-5.36-doc", "postgresql-common"}
    | {"postgresql-client-common", "procps", "readline-common", "sensible-utils", "ssl-cert", "sysvinit-utils", "ucf"}
)
