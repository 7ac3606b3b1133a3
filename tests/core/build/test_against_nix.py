"""Real Nix builds what we build: the same sandbox to look at, the same bits, the same places."""

from __future__ import annotations

import bz2
from pathlib import Path

import pytest

from reconciler.core.build.logs import log_path, read_log
from reconciler.core.build.realise import realise
from reconciler.core.build.sandbox import TOOLCHAIN_PATHS
from reconciler.core.nix import nar
from reconciler.core.nix.derivation import Output
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.environment import Element, environment
from reconciler.core.store.store import Store
from tests.core.build.helpers import derivation, output
from tests.oracle import RealNix

pytestmark = pytest.mark.nix

SANDBOX_PATHS = "sandbox-paths = " + " ".join(path for path in TOOLCHAIN_PATHS if Path(path).exists())


@pytest.fixture
def oracle(tmp_path: Path) -> RealNix:
    """Real Nix with its sandbox, on an empty store of its own."""
    return RealNix(tmp_path / "oracle", sandbox=True, config=SANDBOX_PATHS)


def built_by_nix(oracle: RealNix, store: Store, drv: StorePath) -> dict[str, str]:
    """Copy the derivation `drv` with all it needs into the oracle's store and let it build; NAR hashes by path."""
    with Store.open(str(oracle.root), create=True) as other, other.batch() as batch:
        for path in store.closure([drv]):
            batch.add_nar(store.info(path), nar.ChunkReader(store.nar(path)))
    outputs = oracle.output("nix-store", "--realise", str(drv)).split()
    hashes = oracle.output("nix-store", "--query", "--hash", *outputs).split()
    return dict(zip(outputs, hashes, strict=True))


def built_by_us(store: Store, drv: StorePath) -> dict[str, str]:
    return {str(info.path): info.nar_hash.nix for info in realise(store, [drv]).outputs}


# What a builder can see of where it is. /dev is left out: Nix shows kvm there where the machine has it.
LOOK = """
exec > $out
env | sort
id
cat /etc/passwd /etc/group /etc/hosts
uname -n
cat /proc/sys/kernel/domainname
umask; pwd; ulimit -c
ls -A / /etc /build /tmp
cat /proc/self/personality
grep -E 'CapEff|CapPrm|NoNewPrivs' /proc/self/status
stat -c '%a %u %g %n' /build /tmp /nix/store /etc /nix /dev/shm
readlink /dev/fd /dev/stdin /dev/stdout /dev/stderr /dev/ptmx /proc/1/fd/0
ip addr
"""


def test_a_build_sees_with_us_what_it_sees_with_nix(store: Store, oracle: RealNix) -> None:
    drv = derivation(store, "look", LOOK, file="the contents", passAsFile="file")
    assert built_by_us(store, drv) == built_by_nix(oracle, store, drv)


def test_references_outputs_and_derivers_are_as_nix_registers_them(store: Store, nix: RealNix, oracle: RealNix) -> None:
    base = derivation(store, "base", "mkdir $out; echo data > $out/file")
    script = """
    mkdir $out $lib
    echo {base}/file > $lib/uses
    ln -s $lib $out/lib; echo $out > $out/self; echo no reference: ${{out%-*}} | tr -d 0-9 > $out/none
    chmod 755 $out/self
    """
    drv = derivation(
        store,
        "two",
        script.format(base=output(store, base)),
        [base],
        outputs={"out": Output(None), "lib": Output(None)},
    )
    assert built_by_us(store, drv) == built_by_nix(oracle, store, drv)
    for name in ("out", "lib"):
        path = str(output(store, drv, name))
        for question in ("--references", "--deriver"):
            ours = nix.output("nix-store", "--query", question, path)
            assert sorted(ours.split()) == sorted(oracle.output("nix-store", "--query", question, path).split())
    nix.verify()


def test_nix_finds_our_outputs_valid_and_builds_nothing_again(store: Store, nix: RealNix) -> None:
    drv = derivation(store, "once", "date +%N > $out")
    (info,) = realise(store, [drv]).outputs
    assert nix.output("nix-store", "--realise", str(drv)) == str(info.path)
    assert store.info(info.path) == info
    assert info.ultimate
    nix.verify()


def test_nix_reads_our_log_and_we_read_its(store: Store, nix: RealNix, oracle: RealNix) -> None:
    drv = derivation(store, "talks", "echo one; echo two >&2; touch $out")
    realise(store, [drv])
    assert nix.output("nix-store", "--read-log", str(drv)) == "one\ntwo"
    assert bz2.decompress(Path(log_path(store.state_dir, drv)).read_bytes()) == b"one\ntwo\n"
    built_by_nix(oracle, store, drv)
    assert read_log(str(oracle.root / "nix/var/nix"), drv) == "one\ntwo\n"
    assert read_log(store.state_dir, StorePath.parse(f"/nix/store/{'0' * 32}-other.drv")) == ""


@pytest.mark.parametrize("algorithm", ["sha256", "r:sha256", "sha512", "r:sha512", "sha1", "r:sha1", "md5", "r:md5"])
def test_fixed_outputs_are_registered_as_nix_does(
    store: Store, nix: RealNix, oracle: RealNix, tmp_path: Path, algorithm: str
) -> None:
    recursive, kind = algorithm.startswith("r:"), algorithm.removeprefix("r:")
    content = tmp_path / "content"
    content.write_text("fixed\n")
    flags = [] if recursive else ["--flat"]
    digest = oracle.run("nix-hash", "--type", kind, *flags, str(content)).stdout.decode().strip()
    fixed = {"out": Output(None, algorithm, digest)}
    mode = "recursive" if recursive else "flat"
    drv = derivation(
        store,
        "fixed",
        "test $NIX_OUTPUT_CHECKED = 1; echo fixed > $out",
        outputs=fixed,
        outputHash=digest,
        outputHashAlgo=kind,
        outputHashMode=mode,
    )
    assert built_by_us(store, drv) == built_by_nix(oracle, store, drv)
    with Store.open(str(oracle.root)) as other:
        path = output(store, drv)
        assert store.info(path).ca == other.info(path).ca != ""
    nix.verify()


def test_a_user_environment_is_built_as_nix_builds_it(store: Store, nix: RealNix, oracle: RealNix) -> None:
    packages = [
        derivation(store, f"{name}-1.0", f"mkdir -p $out/bin $out/share/{name}; echo {name} > $out/bin/{name}")
        for name in ("one", "two")
    ]
    realise(store, packages)
    plan = environment([Element(output(store, drv)) for drv in packages])
    store.add_text("env-manifest.nix", plan.manifest_contents, plan.manifest_references)
    drv = store.write_derivation(plan.derivation, "user-environment")
    assert built_by_us(store, drv) == built_by_nix(oracle, store, drv)
    nix.verify()
