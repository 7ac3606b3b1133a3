"""`python3 container.py UID COMMAND…`: run a command as root over 65,536 uids that begin with the machine's UID.

What a container's runtime does; unshare(1) asks newuidmap, which wants an entry in /etc/subuid.
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWUSER = 0x10000000


def main(first: int, command: list[str]) -> int:
    entered_read, entered_write = os.pipe()
    mapped_read, mapped_write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(mapped_write)
        os.setgroups([])
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
            os._exit(99)
        os.write(entered_write, b"x")
        os.read(mapped_read, 1)
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.execvp(command[0], command)
    os.close(entered_write)
    os.read(entered_read, 1)
    for kind in ("uid", "gid"):
        with open(f"/proc/{child}/{kind}_map", "w", encoding="ascii") as file:
            file.write(f"0 {first} 65536")
    os.close(mapped_write)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
