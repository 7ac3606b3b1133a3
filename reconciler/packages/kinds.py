"""Kinds of recipes that need no build script: what each does, written as the script that it stands for.

autotools    ./configure --prefix=$out, make, make install: the standard builder's own default
script       one file becomes bin/NAME; `runtime` packages come first on its PATH
files        what is prebuilt: `install` says where each file or directory goes; without it an archive is installed
             as it is, and a single file as bin/NAME. A wheel is an archive too, and says `install`
python-app   wheels: modules go to lib/python, entry points become bin/...; the modules of inputs that are
             python-apps are found too, each in its own store path
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

AUTOTOOLS, SCRIPT, FILES, PYTHON = "autotools", "script", "files", "python-app"

# Which keys, besides those of every recipe, mean something for a kind.
KEYS: Mapping[str, tuple[str, ...]] = {AUTOTOOLS: (), SCRIPT: ("runtime",), FILES: ("install",), PYTHON: ()}

_PATH = re.compile(r"[A-Za-z0-9_.,:+@%=/-]+")
_OWN_NAME = 'own=${src##*/}\nown=${own#????????????????????????????????-}\nmkdir -p "$out/bin"\n'


def script(runtime: Sequence[str]) -> str:
    """The build of a script; `runtime`: the variables of the packages on its PATH."""
    if not runtime:
        return f'{_OWN_NAME}cp "$own" "$out/bin/$pname"\nchmod 755 "$out/bin/$pname"\n'
    path = ":".join(f"${name}/bin" for name in runtime)
    return f"""{_OWN_NAME}mkdir -p "$out/libexec"
cp "$own" "$out/libexec/$pname"
chmod 755 "$out/libexec/$pname"
printf '#!/bin/sh\\nPATH=%s${{PATH:+:$PATH}}\\nexport PATH\\nexec %s "$@"\\n' \\
    "{path}" "$out/libexec/$pname" > "$out/bin/$pname"
chmod 755 "$out/bin/$pname"
"""


# A pinned toolchain has no Python, and not every builder has one.
_FIND_PYTHON = """if ! python=$(command -v python3); then
    echo 'wheels need an input with bin/python3: `reconciler packages new python3`, then `inputs: [python3]`' >&2
    exit 1
fi
"""
# The standard builder takes a wheel for a file.
_WHEELS = f"""{_FIND_PYTHON}for each in *.whl; do "$python" -I -S -m zipfile -e "$each" .; done
"""


def files(install: Mapping[str, str], wheels: bool = False) -> str:
    """The build of prebuilt files; `install`: from where each comes, by where it goes, both relative; `wheels`: they
    lie in wheels."""
    if not install:
        return f"""if [ -n "$directory" ]; then
    mkdir -p "$out"
    cp -R . "$out/"
else
    {_OWN_NAME.strip().replace(chr(10), chr(10) + "    ")}
    cp "$own" "$out/bin/$pname"
    chmod 755 "$out/bin/$pname"
fi
"""
    lines = []
    for target, source in install.items():
        place = f'"$out"/{target}'
        parent = PurePosixPath(target).parent
        lines.append(f'mkdir -p "$out"/{parent}')
        lines.append(f"cp -R {source} {place}")
        if parent.name in ("bin", "sbin", "libexec"):
            lines.append(f"chmod 755 {place}")
    return (_WHEELS if wheels else "") + "\n".join(lines) + "\n"


def wrong_place(path: str) -> str:
    """Why a path of `install` cannot be one; empty when it can."""
    parts = path.split("/")
    if not path or path.startswith(("/", "~", "-")) or ".." in parts or "" in parts[:-1]:
        return f"'{path}' is not a path below the package"
    # It goes into the build script as it stands.
    return "" if _PATH.fullmatch(path) else f"'{path}' has signs that `install` does not take"


# Run by the builder's python3, or by that of an input called python3. Wheels: PEP 427; entry points: the packaging
# specification of that name.
PYTHON_BUILD = (
    _FIND_PYTHON
    + r""""$python" -I -S - "$python" <<'END_OF_PYTHON'
import configparser, os, pathlib, re, stat, sys, zipfile

out, python = pathlib.Path(os.environ["out"]), sys.argv[1]
place = out / "lib/python"
wheels = [source for source in os.environ["srcs"].split() if source.endswith(".whl")]
if not wheels:
    sys.exit("a python-app is made from wheels (files that end in .whl)")
place.mkdir(parents=True)

def put(wheel, member, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        sys.exit(f"two wheels have the file {target.relative_to(out)}")
    target.write_bytes(wheel.read(member))
    if member.external_attr >> 16 & stat.S_IXUSR:
        target.chmod(0o755)

for name in wheels:
    with zipfile.ZipFile(name) as wheel:
        for member in wheel.infolist():
            path = pathlib.PurePosixPath(member.filename)
            if member.is_dir():
                continue
            if path.is_absolute() or ".." in path.parts:
                sys.exit(f"{name}: {member.filename} is outside of the wheel")
            if path.parts[0].endswith(".data"):
                kind, rest = path.parts[1], path.parts[2:]
                top = {"purelib": place, "platlib": place, "scripts": out / "bin", "headers": out / "include",
                       "data": out}.get(kind)
                if top is None:
                    sys.exit(f"{name}: {member.filename} is of no kind that a wheel can have")
                put(wheel, member, top.joinpath(*rest))
            else:
                put(wheel, member, place / path)

paths = [str(place)]
for given in os.environ["inputs"].split():
    listed = pathlib.Path(given, "nix-support/python-path")
    if listed.exists():
        paths += [line for line in listed.read_text().splitlines() if line not in paths]
(out / "nix-support").mkdir()
(out / "nix-support/python-path").write_text("".join(f"{path}\n" for path in paths))
# What is compiled for a Python of the store finds the C library by that Python, and so is no use without it.
if python.startswith(os.environ["NIX_STORE"] + "/") and any(out.rglob("*.so*")):
    (out / "nix-support/loaded-by").write_text(python + "\n")

# The store does not change: what root runs would else leave bytecode there.
head = f"#!{python} -IB\nimport sys\nsys.path[:0] = {paths!r}\n"
for script in (out / "bin").glob("*") if (out / "bin").is_dir() else ():
    text = script.read_bytes()
    if text.startswith(b"#!python"):
        script.write_bytes(head.encode() + text.partition(b"\n")[2])
        script.chmod(0o755)
for listed in place.glob("*.dist-info/entry_points.txt"):
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str
    parser.read_string(listed.read_text())
    for section in ("console_scripts", "gui_scripts"):
        for name, target in parser.items(section) if parser.has_section(section) else ():
            module, _, attribute = re.sub(r"\[.*\]", "", target).strip().partition(":")
            (out / "bin").mkdir(exist_ok=True)
            script = out / "bin" / name
            script.write_text(f"{head}from {module} import {attribute.partition('.')[0]}\nsys.exit({attribute}())\n")
            script.chmod(0o755)
END_OF_PYTHON
"""
)
