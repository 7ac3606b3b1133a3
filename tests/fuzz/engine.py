"""Two engines: our own seeded mutator, which runs anywhere, and atheris (libFuzzer), where it is installed.

Ours keeps an input that makes the parser say something that no input before did: a poor man's coverage, but it needs
no instrumentation, and the same seed gives the same inputs.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.targets import TARGETS, Target, execute

CORPUS = Path(__file__).parent / "corpus"
SECONDS_AN_INPUT = 2.0  # on a machine that does other things too; a right answer takes milliseconds
MEMORY = 512 * 1024 * 1024  # that a process may grow by, over all the inputs of a run


@dataclass
class Finding:
    """An input that no target may have: what it was, and what happened."""

    data: bytes
    what: str
    place: str = ""


@dataclass
class Result:
    """A run of one target."""

    target: str
    engine: str
    seconds: float = 0.0
    executions: int = 0
    kept: int = 0
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        figures = f"{self.seconds:7.1f} s  {self.executions:9} executions  {len(self.findings)} findings"
        return f"{self.target:13} {self.engine:8} {figures}"


def corpus(name: str) -> list[bytes]:
    """The kept inputs of a target."""
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


# --- our own ----------------------------------------------------------------------------------------------------------


def mutate(chance: random.Random, pool: list[bytes], words: tuple[bytes, ...], largest: int) -> bytes:
    """One of the pool, changed in one to five places."""
    data = bytearray(chance.choice(pool))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5))):
        at = chance.randrange(len(data) + 1)
        size = min(chance.choice((1, 1, 2, 4, 8, 32, 200)), len(data) - at)
        kind = chance.randrange(9)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at : at + size] = chance.randbytes(size)
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[at : at + size] * chance.choice((1, 2, 100))
        elif kind == 4 and words:
            data[at:at] = chance.choice(words) * chance.choice((1, 1, 1, 2, 70))
        elif kind == 5 and words:
            data[at : at + size] = chance.choice(words)
        elif kind == 6:
            other = chance.choice(pool)
            start = chance.randrange(len(other) + 1)
            data[at:] = other[start:]
        elif kind == 7:
            number = chance.choice((0, 1, 255, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1))
            data[at : at + 8] = number.to_bytes(8, "little" if chance.random() < 0.5 else "big")
        else:
            data[at : at + size] = str(chance.choice((0, -1, 2**31, 2**63, 10**400, 1e308))).encode()
    return bytes(data[:largest])


def run_own(one: Target, seconds: float, seed: int = 0, first: list[bytes] | None = None, most: int = 10) -> Result:
    """Mutate for so long, or until there are so many findings; the kept corpus (or `first`) is run before."""
    result = Result(one.name, "ours")
    chance = random.Random(f"{one.name} {seed}")
    pool = list(corpus(one.name) if first is None else first) or [b""]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    began = time.monotonic()
    seen = {_run(one, data, result) for data in pool}
    while time.monotonic() - began < seconds and len(result.findings) < most:
        data = mutate(chance, pool, one.words, one.largest)
        kind = _run(one, data, result)
        if kind not in seen:
            seen.add(kind)
            pool.append(data)
            result.kept += 1
    result.seconds = time.monotonic() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - memory
    if grown > MEMORY:
        result.findings.append(Finding(b"", f"the process grew by {grown >> 20} MiB"))
    return result


def _run(one: Target, data: bytes, result: Result) -> str:
    began = time.process_time()
    outcome = execute(one, data)
    took = time.process_time() - began
    result.executions += 1
    if outcome.finding is not None:
        _note(result, Finding(data, described(outcome.finding), place(outcome.finding)))
        return place(outcome.finding)
    if took > SECONDS_AN_INPUT:
        _note(result, Finding(data, f"took {took:.1f} s", f"slow: {outcome.kind}"))
    return outcome.kind


def _note(result: Result, finding: Finding) -> None:
    """Keep one finding of each place, the shortest."""
    for index, known in enumerate(result.findings):
        if known.place == finding.place:
            if len(finding.data) < len(known.data):
                result.findings[index] = finding
            return
    result.findings.append(finding)


def place(error: Exception) -> str:
    """What was raised, and the deepest line of the project that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/reconciler/" in frame.filename] or list(frames)
    return f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def described(error: Exception) -> str:
    return "".join(traceback.format_exception(error)[-4:])


# --- atheris ----------------------------------------------------------------------------------------------------------


def has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def run_atheris(one: Target, seconds: float, seed: int, learnt: Path) -> Result:
    """libFuzzer in a process of its own, since it ends the one it runs in. What it learns is put into `learnt`."""
    learnt.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        words = Path(work, "words")
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in one.words if word))
        report = Path(work, "report")
        options = {
            "max_total_time": int(seconds) or 1,
            "max_len": one.largest,
            "timeout": 20,
            "rss_limit_mb": 2048,
            "seed": seed + 1,
            "dict": words,
            "artifact_prefix": f"{work}/finding-",
            "print_final_stats": 1,
            "verbosity": 0,
        }
        command = [sys.executable, "-m", "tests.fuzz", "--child", one.name, str(report)]
        command += [f"-{key}={value}" for key, value in options.items()]
        before = len(list(learnt.iterdir()))
        began = time.monotonic()
        done = subprocess.run(
            [*command, str(learnt), str(CORPUS / one.name)],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 300,
        )
        result = Result(one.name, "atheris", time.monotonic() - began, kept=len(list(learnt.iterdir())) - before)
        stats = [line for line in done.stderr.splitlines() if line.startswith("stat::number_of_executed_units:")]
        result.executions = int(stats[0].split()[1]) if stats else 0
        if report.exists():
            result.findings += [Finding(bytes.fromhex(data), *rest) for data, *rest in json.loads(report.read_text())]
        for path in Path(work).glob("finding-*"):
            result.findings.append(Finding(path.read_bytes(), done.stderr[-2000:]))
        if done.returncode and not result.findings:
            result.findings.append(Finding(b"", f"ended with {done.returncode}: {done.stderr[-2000:]}"))
        return result


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


def child(name: str, report: str, arguments: list[str]) -> None:
    """The process that atheris runs in. An exception is written down once for each place, and the run goes on."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["reconciler"]):
        for module in [module for module in sys.modules if module.startswith("reconciler")]:
            del sys.modules[module]
        del sys.modules["tests.fuzz.targets"]
        targets = importlib.import_module("tests.fuzz.targets")
    one = targets.TARGETS[name]
    found: dict[str, tuple[str, str, str]] = {}

    def run(data: bytes) -> None:
        outcome = targets.execute(one, data)
        if outcome.finding is None:
            return
        where = place(outcome.finding)
        if where not in found or len(data) < len(found[where][0]) // 2:
            found[where] = (data.hex(), described(outcome.finding), where)
            Path(report).write_text(json.dumps(list(found.values())))

    atheris.Setup([sys.argv[0], *arguments], run)
    atheris.Fuzz()


def run_target(name: str, seconds: float, seed: int = 0, engine: str = "", learnt: Path | None = None) -> Result:
    """A run by the better engine there is, or by the one that is named. Short runs are ours: atheris takes ten seconds
    to instrument the program before its first input."""
    use = engine or ("atheris" if has_atheris() and seconds >= 30 else "ours")
    if use == "ours":
        return run_own(TARGETS[name], seconds, seed)
    folder = learnt or Path(tempfile.gettempdir()) / f"reconciler-fuzz-{os.getuid()}"
    return run_atheris(TARGETS[name], seconds, seed, folder / name)
