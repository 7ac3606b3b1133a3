"""Our derivations are Nix's: the same .drv from an equal expression, and the same bits when Nix builds ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.build.realise import realise
from reconciler.core.build.sandbox import TOOLCHAIN_PATHS
from reconciler.core.build.toolchain import host_system, host_toolchain
from reconciler.core.nix.hashes import Hash
from reconciler.core.store.store import Store
from reconciler.packages import stage
from reconciler.packages.derive import fetchurl
from reconciler.packages.instantiate import instantiate
from reconciler.packages.resolver import Resolver
from reconciler.packages.specs import UrlSpec
from tests.core.build.helpers import PROJECT
from tests.oracle import RealNix
from tests.packages.project import Project

pytestmark = pytest.mark.nix

SANDBOX_PATHS = "sandbox-paths = " + " ".join(path for path in TOOLCHAIN_PATHS if Path(path).exists())

# What recipes mean, said in Nix's own language.
EXPRESSION = """
{ folder, stage, system, toolchain, tarball, tarballHash, url, urlHash }:
let
  builder = builtins.toFile "recipe-build.sh" (builtins.readFile stage);
  recipe = { pname, version, inputs ? {}, sources ? [], build ? "" }: derivation (inputs
    // (if sources == [] then {} else { src = builtins.head sources; })
    // {
      name = "${pname}-${version}";
      inherit pname version system toolchain build;
      builder = "/bin/sh";
      args = [ "-e" builder ];
      srcs = sources;
      inputs = builtins.attrValues inputs;
    });
  base = recipe {
    pname = "base-lib"; version = "1.10";
    sources = [ (builtins.path { path = folder + "/base"; name = "base"; }) ];
    build = "cp -R . $out\\n";
  };
in recipe {
  pname = "top"; version = "2.0";
  inputs = { base_lib = base; };
  sources = [
    (builtins.path { path = tarball; name = "thing_1.orig.tar.gz"; recursive = false; sha256 = tarballHash; })
    (import <nix/fetchurl.nix> { url = url; sha256 = urlHash; name = "thing.txt"; })
    (builtins.path { path = folder + "/data.txt"; name = "data.txt"; })
  ];
}
"""


def test_an_equal_expression_is_the_same_derivation(project: Project, tmp_path: Path) -> None:
    tarball = tmp_path / "thing_1.orig.tar.gz"
    tarball.write_bytes(b"not read here")
    digest, other = Hash.sha256(b"not read here").base16, Hash.sha256(b"fetched").base16
    url = "https://example.org/thing.txt"
    project.file("base/file", "text")
    project.file("base/program", "#!/bin/sh\n").chmod(0o755)
    folder = project.file("data.txt", 'data "quoted"\n\ttab\n').parent
    project.recipe("base-lib", "version: 1.10\ntoolchain: host\nsource: {path: base}\nbuild: |\n  cp -R . $out\n")
    project.recipe(
        "top",
        f"""
version: 2.0
toolchain: host
inputs: [base-lib]
sources:
  - {{debsrc: thing, version: 1, sha256: {digest}}}
  - {{url: '{url}', sha256: {other}}}
  - {{path: data.txt}}
""",
    )
    (tmp_path / "stage").write_text(stage.SCRIPT)
    (tmp_path / "top.nix").write_text(EXPRESSION)
    arguments = {
        "stage": str(tmp_path / "stage"),
        "system": host_system(),
        "toolchain": host_toolchain(),
        "tarballHash": digest,
        "url": url,
        "urlHash": other,
    }
    flags = [word for name, value in arguments.items() for word in ("--argstr", name, value)]
    paths = ["--arg", "folder", str(folder), "--arg", "tarball", str(tarball)]
    nix = RealNix(tmp_path / "nix")
    expected = nix.output("nix-instantiate", str(tmp_path / "top.nix"), *flags, *paths)
    package = project.resolver().resolve("top", host_system())
    assert str(package.derivation) == expected
    assert nix.output("nix-store", "--query", "--outputs", expected) == str(package.output)


def test_a_fetched_file_is_the_derivation_of_nixs_own_fetchurl(tmp_path: Path) -> None:
    spec = UrlSpec(("https://example.org/a?b=c",), "name.tar.gz", Hash.sha256(b"x"))
    arguments = f'url = "{spec.urls[0]}"; name = "{spec.file}"; sha256 = "{spec.sha256.base16}";'
    nix = RealNix(tmp_path / "nix")
    expected = nix.output("nix-instantiate", "--expr", f"import <nix/fetchurl.nix> {{ {arguments} }}")
    assert str(fetchurl(spec).path) == expected


def test_nix_builds_the_demos_packages_to_the_same_bits(store: Store, nix: RealNix, tmp_path: Path) -> None:
    resolver = Resolver(PROJECT, PROJECT / "inventories/demo")
    packages = [resolver.resolve(name, host_system()) for name in (*resolver.names(), "site@1.0", "site@1.1")]
    graph = resolver.graph(packages)
    derivations = [package.derivation for package in packages if package.derivation is not None]
    instantiate(graph, store)
    ours = {str(info.path): info.nar_hash.nix for info in realise(store, derivations).outputs}
    oracle = RealNix(tmp_path / "oracle", sandbox=True, config=SANDBOX_PATHS)
    with Store.open(str(oracle.root), create=True) as other:
        instantiate(graph, other)
    outputs = oracle.output("nix-store", "--realise", *map(str, derivations)).split()
    theirs = oracle.output("nix-store", "--query", "--hash", *outputs).split()
    assert dict(zip(outputs, theirs, strict=True)) == ours
    for path in ours:
        references = nix.output("nix-store", "--query", "--references", path)
        assert references == oracle.output("nix-store", "--query", "--references", path)
    nix.verify()
    oracle.verify()
