"""What the packages' benchmarks work on: one graph, written as a project of recipes and as an expression for Nix.

Both say the same, so that both sides make the same .drv files: the store paths are compared before anything is timed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.nix.hashes import Hash
from reconciler.packages import stage

TOP = "top"

_NIX = """
{ system, toolchain }:
let
  stage = builtins.toFile "recipe-build.sh" (builtins.readFile ./recipe-build.sh);
  fetch = url: sha256: import <nix/fetchurl.nix> { inherit url sha256; };
  recipe = { pname, version, inputs ? [], sources ? [], build }: derivation (
    builtins.listToAttrs (map (input: { name = input.pname; value = input; }) inputs)
    // (if sources == [] then {} else { src = builtins.head sources; })
    // {
      name = "${pname}-${version}";
      inherit pname version system toolchain build inputs;
      builder = "/bin/sh";
      args = [ "-e" stage ];
      srcs = sources;
    });
in rec {
"""


@dataclass(frozen=True)
class Package:
    """One package; `url` is where its source comes from, empty where it has none."""

    name: str
    version: str
    build: str
    inputs: tuple[str, ...] = ()
    url: str = ""

    @property
    def sha256(self) -> str:
        return Hash.sha256(self.url.encode()).base16

    def recipe(self) -> str:
        lines = [f"version: {self.version}", f"description: {self.name}, which measures", "toolchain: host"]
        if self.url:
            lines.append(f"source: {{url: '{self.url}', sha256: {self.sha256}}}")
        if self.inputs:
            lines.append(f"inputs: [{', '.join(self.inputs)}]")
        indented = "".join(f"  {line}\n" for line in self.build.splitlines())
        return "\n".join([*lines, "build: |", indented])

    def nix(self) -> str:
        build = json.dumps(self.build).replace("${", "\\${")
        parts = [f'pname = "{self.name}"; version = "{self.version}"; build = {build};']
        if self.url:
            parts.append(f'sources = [ (fetch "{self.url}" "{self.sha256}") ];')
        if self.inputs:
            parts.append(f"inputs = [ {' '.join(self.inputs)} ];")
        return f"  {self.name} = recipe {{ {' '.join(parts)} }};\n"


@dataclass(frozen=True)
class Written:
    """A graph on disk: the project, with the inventory below it, and the expression's file."""

    project: Path
    expression: Path

    @property
    def inventory(self) -> Path:
        return self.project / "inventories" / "bench"


def write(work: Path, packages: Sequence[Package]) -> Written:
    written = Written(work / "project", work / "expression" / "default.nix")
    (written.project / "packages").mkdir(parents=True)
    written.inventory.mkdir(parents=True)
    (written.inventory / "hosts.yml").write_text("all:\n  hosts:\n    one:\n")
    for package in packages:
        (written.project / "packages" / f"{package.name}.yml").write_text(package.recipe())
    written.expression.parent.mkdir()
    (written.expression.parent / "recipe-build.sh").write_text(stage.SCRIPT)
    written.expression.write_text(_NIX + "".join(package.nix() for package in packages) + "}\n")
    return written


# --- many derivations -------------------------------------------------------------------------------------------------

_PREFIXED = """\
./configure --prefix="$out" --disable-static
make -j"$NIX_BUILD_CORES"
make install
mkdir -p "$out/share/doc/$pname"
cp README* "$out/share/doc/$pname/"
"""


def many(derivations: int) -> list[Package]:
    """Packages of which every third fetches a source, four derivations for three packages. Each has up to seven inputs
    among the earlier ones; the last, TOP, needs whatever nothing else does."""
    chance = random.Random(derivations)
    made: list[Package] = []
    needed: set[str] = set()
    left = derivations - 1
    while left:
        name = f"pkg{len(made):04}"
        url = f"https://downloads.example.org/{name}/{name}-1.{len(made)}.tar.gz" if left > 1 and _third(made) else ""
        inputs = sorted(package.name for package in chance.sample(made, min(len(made), chance.randrange(8))))
        needed.update(inputs)
        made.append(Package(name, f"1.{len(made)}", _PREFIXED, tuple(inputs), url))
        left -= 2 if url else 1
    return [*made, _top(made, needed, 'mkdir "$out"\n')]


def _top(made: Sequence[Package], needed: Set[str], build: str) -> Package:
    return Package(TOP, "1.0", build, tuple(package.name for package in made if package.name not in needed))


def _third(made: Sequence[Package]) -> bool:
    return len(made) % 3 == 0


# --- small builds -----------------------------------------------------------------------------------------------------

_WORK = """\
mkdir -p "$out/bin" "$out/share/$pname"
awk 'BEGIN { for (n = 2; n < 2000; n++) { p = 1; for (d = 2; d * d <= n; d++) if (n % d == 0) { p = 0; break }
    if (p) print n } }' > "$out/share/$pname/primes"
for number in 1 2 3 4 5 6 7 8; do
    head -n "$number" "$out/share/$pname/primes" | sort -r > "$out/share/$pname/first-$number"
done
for input in $inputs; do cat "$input"/share/*/sum; done > "$out/share/$pname/below"
cat "$out/share/$pname"/* | sha256sum > "$out/share/$pname/sum"
printf '#!/bin/sh\\ncat %s\\n' "$out/share/$pname/sum" > "$out/bin/$pname"
chmod 755 "$out/bin/$pname"
"""


def builds(count: int) -> list[Package]:
    """Packages that take a moment each: a fifth needs nothing, the others one or two of those a few before them; TOP,
    the last, needs whatever nothing else does."""
    chance = random.Random(count)
    made: list[Package] = []
    needed: set[str] = set()
    for number in range(count - 1):
        near = made[max(0, number - 12) : max(0, number - 3)] if number >= count // 5 else []
        inputs = tuple(sorted(package.name for package in chance.sample(near, min(len(near), chance.randint(1, 2)))))
        needed.update(inputs)
        made.append(Package(f"part{number:02}", f"1.{number}", _WORK, inputs))
    return [*made, _top(made, needed, _WORK)]
