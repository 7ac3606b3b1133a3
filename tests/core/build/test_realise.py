"""Which builds are run, in which order, and how a run ends."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reconciler.core.build.machine import Machine
from reconciler.core.build.realise import BuildEvent, BuildOptions, BuildsError, realise
from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import BuildError, StoreError
from reconciler.core.nix.derivation import Output
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from tests.core.build.helpers import DRIVER, PROJECT, derivation, output
from tests.core.build.test_sandbox import running, seconds, wait_until_gone
from tests.oracle import RealNix


class Heard:
    """The events of a run, with the thread that each came in."""

    def __init__(self) -> None:
        self.events: list[BuildEvent] = []
        self.threads: set[int] = set()

    def __call__(self, event: BuildEvent) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())

    def of(self, kind: str) -> list[str]:
        """The names of the derivations that had an event of this kind, in order."""
        return [
            StorePath.parse(event.derivation).name.removesuffix(".drv") for event in self.events if event.kind == kind
        ]


def chain(store: Store, *names: str, script: str = "echo $name > $out") -> list[StorePath]:
    """Derivations that need each the one before it."""
    made: list[StorePath] = []
    for name in names:
        made.append(derivation(store, name, script, made[-1:]))
    return made


def test_inputs_are_built_first_and_each_once(store: Store, nix: RealNix) -> None:
    heard = Heard()
    base = derivation(store, "base", "echo > $out")
    sides = [derivation(store, name, f"cat {output(store, base)} > $out", [base]) for name in ("left", "right")]
    top = derivation(store, "top", "cat {} {} > $out".format(*(output(store, side) for side in sides)), sides)
    done = realise(store, [top, *sides], BuildOptions(jobs=2, on_event=heard))
    assert heard.of("start")[0] == "base"
    assert heard.of("start")[-1] == "top"
    assert sorted(heard.of("done")) == ["base", "left", "right", "top"]
    assert set(done.built) == {base, top, *sides}
    assert [info.path for info in done.outputs] == [output(store, drv) for drv in (top, *sides)]
    assert heard.threads == {threading.get_ident()}
    nix.verify()


def test_what_most_waits_for_is_built_first(store: Store) -> None:
    alone = [derivation(store, f"alone{number}", "echo > $out") for number in range(4)]
    three = chain(store, "first", "second", "third")
    two = chain(store, "one", "two")
    heard = Heard()
    realise(store, [*alone, three[-1], two[-1]], BuildOptions(on_event=heard))
    began = heard.of("start")
    assert began[0] == "first"
    assert set(began[1:3]) == {"second", "one"}
    assert set(began[3:]) == {"third", "two", *(f"alone{number}" for number in range(4))}


def test_what_is_valid_is_not_built_again(store: Store) -> None:
    (base, top) = chain(store, "base", "top")
    assert realise(store, [base]).built == (base,)
    assert realise(store, [top]).built == (top,)
    heard = Heard()
    again = realise(store, [top], BuildOptions(on_event=heard))
    assert (again.built, heard.events) == ((), [])
    assert again.outputs[0].path == output(store, top)


def test_inputs_of_what_is_valid_are_not_looked_at(store: Store, store_root: Path) -> None:
    base, middle, top = chain(store, "base", "middle", "top")
    realise(store, [middle])
    file = Path(store.real(output(store, base)))
    away = file.rename(store_root / "away")
    assert realise(store, [top]).built == (top,)
    away.rename(file)


TIMED = "date +%s%N > $out; sleep 0.3; date +%s%N >> $out"


def overlap(store: Store, drvs: list[StorePath]) -> bool:
    """Whether any of these builds, of which each was TIMED, began before another one ended."""
    times = [Path(store.real(output(store, drv))).read_text().split() for drv in drvs]
    ordered = sorted((int(begin), int(end)) for begin, end in times)
    return any(later[0] < earlier[1] for earlier, later in itertools.pairwise(ordered))


@pytest.mark.parametrize("jobs", [1, 2])
def test_as_many_builds_run_side_by_side_as_there_are_jobs(store: Store, jobs: int) -> None:
    drvs = [derivation(store, name, TIMED) for name in "abc"]
    realise(store, drvs, BuildOptions(jobs=jobs))
    assert overlap(store, drvs) == (jobs > 1)


def test_the_next_build_runs_while_the_one_before_it_is_made_durable(store: Store) -> None:
    heard = Heard()
    drvs = [derivation(store, name, "touch $out") for name in "ab"]
    after = derivation(store, "after", "touch $out", drvs)
    realise(store, [after], BuildOptions(on_event=heard))
    kinds = [event.kind for event in heard.events if event.kind != "log"]
    assert kinds == ["start", "start", "done", "done", "start", "done"]


def test_what_needs_an_output_is_not_started_before_it_is_registered(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    base, top = chain(store, "base", "top")
    other = derivation(store, "other", "touch $out")

    def refuse(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(Store, "register", refuse)
    with pytest.raises(StoreError, match="the disk is full"):
        realise(store, [top, other], BuildOptions(jobs=2, on_event=heard))
    assert "top" not in heard.of("start")
    assert not store.valid([output(store, base), output(store, other)])


def test_a_failure_stops_what_runs_and_starts_nothing_new(store: Store, nix: RealNix) -> None:
    heard = Heard()
    mark = seconds()
    slow = derivation(store, "slow", f"echo going; sleep {mark}")
    bad = derivation(store, "bad", "sleep 0.5; echo it went wrong; exit 1")
    after = derivation(store, "after", "touch $out", [bad])
    with pytest.raises(BuildError, match=r"^bad could not be built: the builder failed with exit status 1") as error:
        realise(store, [slow, after], BuildOptions(jobs=2, on_event=heard))
    assert error.value.message.endswith("\n  it went wrong")
    assert "after" not in heard.of("start")
    assert wait_until_gone(mark)
    assert not store.is_valid(output(store, bad))
    nix.verify()


def test_a_run_that_keeps_going_makes_all_that_does_not_need_what_failed(store: Store, nix: RealNix) -> None:
    heard = Heard()
    bad = derivation(store, "bad", "echo it went wrong; exit 1")
    worse = derivation(store, "worse", "exit 2")
    (good,) = chain(store, "good")
    after = derivation(store, "after", "touch $out", [bad, good])
    last = derivation(store, "last", "touch $out", [after])
    with pytest.raises(BuildsError) as caught:
        realise(store, [last, worse, good], BuildOptions(keep_going=True, on_event=heard))
    assert {path.name: error.message.splitlines()[0] for path, error in caught.value.errors.items()} == {
        "bad.drv": "bad could not be built: the builder failed with exit status 1",
        "worse.drv": "worse could not be built: the builder failed with exit status 2",
    }
    assert caught.value.message == next(iter(caught.value.errors.values())).message
    assert not {"after", "last"} & set(heard.of("start"))
    assert store.is_valid(output(store, good))
    nix.verify()


def test_a_run_that_keeps_going_can_still_be_cancelled(store: Store) -> None:
    mark = seconds()
    drvs = [derivation(store, "bad", "exit 1"), derivation(store, "endless", f"sleep {mark}")]
    begun = time.monotonic()
    options = BuildOptions(jobs=2, keep_going=True, cancelled=lambda: time.monotonic() > begun + 1)
    with pytest.raises(BuildError, match="cancelled"):
        realise(store, drvs, options)
    assert wait_until_gone(mark)


def test_a_run_can_be_cancelled(store: Store) -> None:
    mark = seconds()
    drv = derivation(store, "endless", f"sleep {mark}")
    begun = time.monotonic()
    with pytest.raises(BuildError, match="cancelled"):
        realise(store, [drv], BuildOptions(cancelled=lambda: time.monotonic() > begun + 1))
    assert time.monotonic() - begun < 10
    assert wait_until_gone(mark)


def test_a_listener_that_raises_ends_the_run_and_its_builds(store: Store) -> None:
    mark = seconds()
    drv = derivation(store, "chatty", f"sleep {mark} & while true; do seq 100000; done")

    def listen(event: BuildEvent) -> None:
        if event.kind == "log":
            raise ConnectionError("nobody is there any more")

    with pytest.raises(ConnectionError):
        realise(store, [drv], BuildOptions(on_event=listen))
    assert wait_until_gone(mark)


def test_every_line_of_a_build_that_prints_faster_than_one_listens_is_heard(store: Store) -> None:
    heard = Heard()
    drv = derivation(store, "fast", "seq 20000; touch $out")
    realise(store, [drv], BuildOptions(on_event=heard))
    assert [event.detail for event in heard.events if event.kind == "log"] == [str(n) for n in range(1, 20001)]


def test_a_failed_build_can_be_kept(store: Store) -> None:
    drv = derivation(store, "kept", "echo evidence > /build/file; exit 1")
    with pytest.raises(BuildError) as error:
        realise(store, [drv], BuildOptions(keep_failed=True))
    assert error.value.hint is not None
    directory = Path(error.value.hint.rpartition("the build directory is kept: ")[2])
    assert (directory / "build/file").read_text() == "evidence\n"
    with pytest.raises(BuildError):
        realise(store, [drv])
    assert (directory / "build/file").exists()


def test_a_derivation_that_is_not_in_the_store_is_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="is not valid"):
        realise(store, [StorePath.parse(f"/nix/store/{'0' * 32}-x.drv")])


UNSUPPORTED = {
    "another architecture": ({"system": "sparc-linux"}, "is to be built on sparc-linux, and this is "),
    "another toolchain": (
        {"toolchain": "host-0123"},
        "is to be built with the toolchain host-0123, and this host has host-",
    ),
    "a toolchain that is no input": (
        {"toolchain": f"/nix/store/{'0' * 32}-tools"},
        "its toolchain /nix/store/0+-tools is not among its inputs",
    ),
    "a toolchain that is no store path": ({"toolchain": "/nix/store/tools"}, "its toolchain is no store path"),
    "a builtin that there is not": (
        {"builder": "builtin:unpack-channel"},
        "there is no builder 'builtin:unpack-channel'",
    ),
    "structured attributes": ({"__json": "{}"}, "uses '__json', which is not supported"),
    "checks of references": ({"disallowedReferences": "x"}, "uses 'disallowedReferences', which is not supported"),
    "a feature": ({"requiredSystemFeatures": "big-parallel kvm"}, "needs a builder with the features kvm"),
}


def test_a_machine_that_can_more_builds_more(store: Store) -> None:
    special = derivation(store, "special", "touch $out", requiredSystemFeatures="gpu benchmark")
    machine = Machine(features=("gpu", "benchmark"))
    realise(store, [special], BuildOptions(machine=machine))
    assert store.is_valid(output(store, special))
    usual = derivation(store, "usual", "touch $out", requiredSystemFeatures="big-parallel")
    with pytest.raises(BuildError, match="needs a builder with the features big-parallel"):
        realise(store, [usual], BuildOptions(machine=machine))


def test_kvm_is_shown_to_a_build_that_requires_it_and_to_no_other(store: Store) -> None:
    script = "if test -c /dev/kvm; then echo there; else echo none; fi > $out"
    with_kvm = derivation(store, "with-kvm", script, requiredSystemFeatures="kvm")
    without = derivation(store, "without", script)
    realise(store, [with_kvm, without], BuildOptions(machine=Machine(features=("kvm",))))
    there = "there\n" if os.path.exists("/dev/kvm") else "none\n"
    assert Path(store.real(output(store, with_kvm))).read_text() == there
    assert Path(store.real(output(store, without))).read_text() == "none\n"


@pytest.mark.parametrize("what", UNSUPPORTED)
def test_what_cannot_be_built_here_is_refused_before_anything_is_built(store: Store, what: str) -> None:
    variables, message = UNSUPPORTED[what]
    heard = Heard()
    fine = derivation(store, "fine", "touch $out")
    drv = derivation(store, "odd", "touch $out", [fine], outputs=None, **variables)
    with pytest.raises(BuildError, match=message):
        realise(store, [drv], BuildOptions(on_event=heard))
    assert heard.events == []


def test_outputs_that_refer_to_each_other_are_refused(store: Store, nix: RealNix) -> None:
    drv = derivation(
        store, "circle", "echo $b > $out; echo $out > $b", outputs={"out": Output(None), "b": Output(None)}
    )
    with pytest.raises(BuildError, match="refer to each other in a circle"):
        realise(store, [drv])
    nix.verify()


def test_a_builder_that_is_not_there_is_told(store: Store) -> None:
    """Without a toolchain a build sees its inputs, and so no shell."""
    with pytest.raises(BuildError) as error:
        realise(store, [derivation(store, "bare", "true", toolchain="")])
    assert error.value.message == "bare could not be built: executing /bin/sh: No such file or directory"
    assert error.value.hint == "a builder lies in an input, or in the host toolchain where one is named"


def test_a_machine_that_does_not_run_what_is_said_of_it_is_told(store: Store) -> None:
    """A builder may be listed with systems that it emulates; what runs `strange-linux` is no program anywhere."""
    program = derivation(store, "program", "printf '\\177ELF of another kind' > $out; chmod 755 $out")
    found = str(output(store, program))
    drv = derivation(store, "bare", "true", [program], builder=found, system="strange-linux", toolchain="")
    with pytest.raises(BuildError) as error:
        realise(store, [drv], BuildOptions(machine=Machine(("strange-linux",))))
    assert error.value.message == f"bare could not be built: executing {found}: Exec format error"
    assert error.value.hint == (
        f"this machine is {host_system()}: programs of another system need an emulator that the kernel knows "
        "(binfmt_misc) and keeps open (flag F)"
    )


def test_the_host_toolchain_of_another_system_is_not_that_of_this_host(store: Store) -> None:
    """Compilers of one release say the same of themselves on every system, and so would the variable."""
    needed = derivation(store, "needed", "touch $out")
    drv = derivation(store, "words", "true", [needed], system="strange-linux")
    with pytest.raises(BuildError) as error:
        realise(store, [drv], BuildOptions(machine=Machine(("strange-linux",))))
    assert error.value.message == (
        f"{drv}: it is for strange-linux with `toolchain: host`, and this host, which runs such programs, compiles for "
        f"{host_system()}"
    )
    assert error.value.hint == (
        "a pinned toolchain (`toolchain: debian-12`), or a builder that is strange-linux itself"
    )
    assert not store.is_valid(output(store, needed)), "nothing is built before that is told"


def fixed(store: Store, name: str, script: str, content: bytes) -> StorePath:
    digest = Hash.sha256(content).base16
    return derivation(
        store,
        name,
        script,
        outputs={"out": Output(None, "sha256", digest)},
        outputHash=digest,
        outputHashAlgo="sha256",
        outputHashMode="flat",
    )


def test_a_wrong_hash_shows_both_and_how_to_accept_the_new_one(store: Store, nix: RealNix) -> None:
    drv = fixed(store, "tarball", "printf new > $out", b"old")
    with pytest.raises(BuildError) as error:
        realise(store, [drv])
    old, new = Hash.sha256(b"old"), Hash.sha256(b"new")
    assert error.value.message == (
        f"tarball could not be built: {output(store, drv)} is not what its hash says\n"
        f"  wanted  sha256:{old.base16}\n"
        f"  found   sha256:{new.base16}"
    )
    assert error.value.hint == f"where the new content is right, accept it: write  sha256: {new.base16}  in the recipe"
    assert not store.is_valid(output(store, drv))
    nix.verify()


def test_a_fixed_output_may_not_be_executable_or_refer_to_anything(store: Store) -> None:
    with pytest.raises(BuildError, match="must be a regular file that is not executable"):
        realise(store, [fixed(store, "program", "printf x > $out; chmod 755 $out", b"x")])
    base = derivation(store, "base", "touch $out")
    text = str(output(store, base)).encode()
    digest = Hash.sha256(text).base16
    drv = derivation(
        store, "refers", f"printf {text.decode()} > $out", [base], outputs={"out": Output(None, "sha256", digest)}
    )
    with pytest.raises(BuildError, match="has a fixed hash, and so may not refer to"):
        realise(store, [drv])


def start_driver(root: Path, script: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-I", "-S", str(DRIVER), str(PROJECT)]
    driver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert driver.stdin is not None
    driver.stdin.write(json.dumps({"root": str(root), "name": "shared", "script": script}))
    driver.stdin.close()
    return driver


def test_two_processes_that_want_one_output_build_it_once(store_root: Path, nix: RealNix) -> None:
    mark = f"4.{seconds().rpartition('.')[2]}"
    script = f"echo built; sleep {mark}; date +%N > $out"
    drivers = [start_driver(store_root, script)]
    while not running(mark):
        time.sleep(0.02)
    drivers.append(start_driver(store_root, script))
    answers = []
    for driver in drivers:
        assert driver.stdout is not None
        answers.append(json.loads(driver.stdout.read()))
        driver.stdout.close()
        assert driver.wait(timeout=60) == 0
    assert answers[0]["output"] == answers[1]["output"]
    assert sorted(answer["log"] for answer in answers) == [
        ["another process is building shared: waiting for it"],
        ["built"],
    ]
    nix.verify()


def test_a_killed_run_leaves_no_process_and_the_next_run_removes_its_directory(store_root: Path, nix: RealNix) -> None:
    mark = seconds()
    driver = start_driver(store_root, f"touch /build/file; sleep {mark}; touch $out")
    while not running(mark):
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert driver.stdout is not None
    driver.stdout.close()
    assert wait_until_gone(mark)
    builds = store_root / "nix/var/nix/builds"
    assert len(os.listdir(builds)) == 2
    with Store.open(str(store_root)) as store:
        realise(store, [derivation(store, "next", "touch $out")])
    assert os.listdir(builds) == []
    nix.verify()
