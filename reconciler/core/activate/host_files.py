"""The few files outside /nix that a managed host has: PATH for shells, one line for the boot, and where the store is
ours its mount.

Each opens with MARK. A file of one of these names without the mark is somebody else's and is never replaced; one with
it that differs is ours, edited by hand or written by another version, and is put right.
"""

from __future__ import annotations

import contextlib
import enum
import os
import stat

from reconciler.core import fs
from reconciler.core.activate.roots import under
from reconciler.core.values import value

MARK = "# Written by reconciler"
_NOTE = f"{MARK}; the next deployment undoes what is changed here.\n"

PROFILE_SH = "/etc/profile.d/reconciler.sh"
FISH = "/etc/fish/conf.d/reconciler.fish"
TMPFILES = "/etc/tmpfiles.d/reconciler.conf"
MOUNT = "/etc/systemd/system/nix-store.mount"
MOUNT_WANTED = "/etc/systemd/system/local-fs.target.d/reconciler.conf"

_SH = (
    _NOTE
    + r"""# For any POSIX shell, also with -e and -u; reading it twice changes nothing more.

if [ -n "${HOME-}" ]; then
    __reconciler_user=$HOME/.nix-profile
    if [ ! -L "$__reconciler_user" ] && [ ! -e "$__reconciler_user" ]; then
        # Nix's own place without ~/.nix-profile, then the profile of a home that is not there or cannot be written to.
        for __reconciler_try in "${XDG_STATE_HOME:-$HOME/.local/state}/nix/profile" \
            "/nix/var/nix/profiles/per-user/${USER:-${LOGNAME:--}}/profile"; do
            if [ -L "$__reconciler_try" ]; then
                __reconciler_user=$__reconciler_try
                break
            fi
        done
        unset __reconciler_try
    fi
else
    __reconciler_user=/nix/var/nix/profiles/default
fi

XDG_DATA_DIRS=${XDG_DATA_DIRS:-/usr/local/share:/usr/share}
# Each goes in front of the one before, so the last of these comes first.
for __reconciler_dir in /run/current-system/sw /nix/var/nix/profiles/default "$__reconciler_user"; do
    case ":${PATH-}:" in
        *":$__reconciler_dir/bin:"*) ;;
        *) PATH=$__reconciler_dir/bin${PATH:+:$PATH} ;;
    esac
    case ":$XDG_DATA_DIRS:" in
        *":$__reconciler_dir/share:"*) ;;
        *) XDG_DATA_DIRS=$__reconciler_dir/share:$XDG_DATA_DIRS ;;
    esac
done
export PATH XDG_DATA_DIRS
unset __reconciler_dir __reconciler_user

# Programs from the store look for these where the distribution does not put them.
if [ -z "${NIX_SSL_CERT_FILE-}" ]; then
    for __reconciler_file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt \
        /etc/ssl/ca-bundle.pem; do
        if [ -e "$__reconciler_file" ]; then
            export NIX_SSL_CERT_FILE="$__reconciler_file"
            break
        fi
    done
    unset __reconciler_file
fi
if [ -z "${LOCALE_ARCHIVE-}" ] && [ -e /usr/lib/locale/locale-archive ]; then
    export LOCALE_ARCHIVE=/usr/lib/locale/locale-archive
fi
"""
)

_FISH = (
    _NOTE
    + r"""
set -l user "$HOME/.nix-profile"
if not test -L $user; and not test -e $user
    for try in "$HOME/.local/state/nix/profile" "/nix/var/nix/profiles/per-user/$USER/profile"
        if test -L $try
            set user $try
            break
        end
    end
end

set -q XDG_DATA_DIRS; or set -gx XDG_DATA_DIRS /usr/local/share:/usr/share
for dir in /run/current-system/sw /nix/var/nix/profiles/default $user
    contains -- $dir/bin $PATH; or set -gx PATH $dir/bin $PATH
    string match -q -- "*:$dir/share:*" ":$XDG_DATA_DIRS:"; or set -gx XDG_DATA_DIRS "$dir/share:$XDG_DATA_DIRS"
end

if not set -q NIX_SSL_CERT_FILE
    for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem
        if test -e $file
            set -gx NIX_SSL_CERT_FILE $file
            break
        end
    end
end
if not set -q LOCALE_ARCHIVE; and test -e /usr/lib/locale/locale-archive
    set -gx LOCALE_ARCHIVE /usr/lib/locale/locale-archive
end
"""
)

# `L`, not `L+`: tmpfiles also runs on a running host, and must not move a link that is there.
_BOOT = _NOTE + "L /run/current-system - - - - /nix/var/nix/profiles/system\n"

# systemd.mount(5): the name is the path's; mount(8) makes `bind,ro` two mounts of the kernel's.
_MOUNT = (
    _NOTE
    + """[Unit]
Description=/nix/store, read-only for all but the reconciler and Nix
ConditionPathIsDirectory=/nix/store

[Mount]
What=/nix/store
Where=/nix/store
Type=none
Options=bind,ro
"""
)
_MOUNT_WANTED = _NOTE + "[Unit]\nWants=nix-store.mount\n"


@value
class HostFile:
    """`mode`: its permission bits. `only_with`: the file is made only where this directory exists already; `own_store`:
    only where the store is ours."""

    contents: bytes
    mode: int = 0o644
    only_with: str = ""
    own_store: bool = False

    def belongs(self, root: str, own_store: bool) -> bool:
        """Whether such a host has it."""
        return (own_store or not self.own_store) and (not self.only_with or os.path.isdir(under(root, self.only_with)))


@value
class Installed:
    """`created`: files that were made now; `restored`: ours, put right; `foreign`: left alone, not ours."""

    created: tuple[str, ...]
    restored: tuple[str, ...]
    foreign: tuple[str, ...]


def host_files() -> dict[str, HostFile]:
    """Every file of a managed host, by its path there."""
    return {
        PROFILE_SH: HostFile(_SH.encode()),
        FISH: HostFile(_FISH.encode(), only_with="/etc/fish"),
        TMPFILES: HostFile(_BOOT.encode()),
        MOUNT: HostFile(_MOUNT.encode(), only_with=os.path.dirname(MOUNT), own_store=True),
        MOUNT_WANTED: HostFile(_MOUNT_WANTED.encode(), only_with=os.path.dirname(MOUNT), own_store=True),
    }


class State(enum.Enum):
    """What stands at the path of one of these files. OURS: ours, as it was written. CHANGED: ours once."""

    ABSENT = "absent"
    OURS = "ours"
    CHANGED = "changed"
    FOREIGN = "foreign"


def states(root: str = "/") -> dict[str, State]:
    """What stands where our files belong."""
    found = {}
    for path, file in host_files().items():
        present = _contents(under(root, path))
        if present is None:
            found[path] = State.ABSENT
        elif present == file.contents:
            found[path] = State.OURS
        else:
            found[path] = State.CHANGED if present.startswith(MARK.encode()) else State.FOREIGN
    return found


def install_host_files(root: str = "/", own_store: bool = False) -> Installed:
    """Make what is missing and put right what is ours; nothing is written where all is well. `own_store`: whether the
    host's store is ours."""
    created: list[str] = []
    restored: list[str] = []
    foreign: list[str] = []
    for path, file in host_files().items():
        if not file.belongs(root, own_store):
            continue
        present = _contents(under(root, path))
        if present == file.contents:
            continue
        if present is not None and not present.startswith(MARK.encode()):
            foreign.append(path)
            continue
        fs.ensure_directory(os.path.dirname(under(root, path)))
        fs.replace_file(under(root, path), file.contents, file.mode)
        (created if present is None else restored).append(path)
    return Installed(tuple(created), tuple(restored), tuple(foreign))


def remove_host_files(paths: tuple[str, ...], root: str = "/") -> None:
    """Take away files that `install_host_files` made, for a first deployment that did not come about."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(under(root, path))
            fs.fsync_directory(os.path.dirname(under(root, path)))


def _contents(path: str) -> bytes | None:
    """What the file holds; None when there is nothing. Anything but a plain file reads as somebody else's."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        return b""
    try:
        return os.read(fd, 1 << 20) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
