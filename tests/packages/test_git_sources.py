"""Sources from git: pinned by commit and store path, and the same whatever the branch does afterwards."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from reconciler.core.errors import Faults, StoreError, UsageError
from reconciler.core.store.store import Store
from reconciler.packages.instantiate import instantiate
from reconciler.packages.lock import Lock
from reconciler.packages.recipe import load
from reconciler.packages.resolver import Resolver
from tests.oracle import RealNix
from tests.packages.project import SYSTEM, Project


class Repository:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    @property
    def url(self) -> str:
        return self.directory.as_uri()

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", *who, "-C", str(self.directory), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, **files: str) -> str:
        for name, text in files.items():
            (self.directory / name).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", "change")
        return self.git("rev-parse", "HEAD")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "words.git")


def write(project: Project, source: str) -> None:
    project.recipe("words", f"version: 1.0\ntoolchain: host\nsource: {{{source}}}\nbuild: cp -r $src $out\n")


def resolver(project: Project, lock: Lock | None = None) -> Resolver:
    return Resolver(project.root, project.inventory, lock)


def test_a_branch_is_pinned_to_its_commit_and_tree_and_stays_there(
    project: Project, repository: Repository, tmp_path: Path
) -> None:
    first = repository.commit(words="one\n", run="#!/bin/sh\n")
    write(project, f"git: {repository.url}, ref: main")
    before = resolver(project)
    package = before.resolve("words", SYSTEM)
    git, words = before.unlocked()
    assert (git.reference, git.system, git.set, git.version) == (f"git+{repository.url}#main", "source", "git", first)
    assert (words.reference, words.version) == ("words", "1.0")

    second = repository.commit(words="two\n")
    lock = Lock().with_entries([git, words])
    assert resolver(project, lock).resolve("words", SYSTEM) == package
    moved = resolver(project)
    assert moved.resolve("words", SYSTEM) != package
    assert moved.unlocked()[0].version == second

    with Store.open(str(tmp_path / "store"), create=True) as store:
        instantiate(resolver_with(project, lock).graph([package]), store)
        assert git.path is not None
        assert Path(store.real(git.path), "words").read_text() == "one\n"
    RealNix(tmp_path / "store").verify()


def resolver_with(project: Project, lock: Lock) -> Resolver:
    made = resolver(project, lock)
    made.resolve("words", SYSTEM)
    return made


def test_a_tag_and_a_commit_mean_the_same_tree(project: Project, repository: Repository) -> None:
    commit = repository.commit(words="one\n")
    repository.git("tag", "-a", "v1", "-m", "one")
    repository.commit(words="two\n")
    outputs = set()
    for source in ("ref: v1", f"commit: {commit}"):
        write(project, f"git: {repository.url}, {source}")
        outputs.add(resolver(project).resolve("words", SYSTEM).output)
    assert len(outputs) == 1


def test_a_tree_is_the_same_whatever_somebody_has_configured(
    project: Project, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit(words="hello\nworld\n", id="$Format:%h$\n")
    (repository.directory / ".gitattributes").write_text("id export-subst\n")
    commit = repository.commit()
    write(project, f"git: 'file://{repository.directory}', commit: {commit}")
    pinned = set()
    for number, own in enumerate(("", "[core]\n\tautocrlf = true\n\tabbrev = 20\n[tar]\n\tumask = 0177\n")):
        home = tmp_path / f"home{number}"
        (home / "git").mkdir(parents=True)
        (home / ".gitconfig").write_text(own + f"[core]\n\tattributesFile = {home}/git/attributes\n")
        (home / "git/attributes").write_text("* export-ignore\n" if own else "")
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
        used = resolver(project)
        used.resolve("words", SYSTEM)
        pinned |= {entry.path for entry in used.used() if entry.set == "git"}
    assert len(pinned) == 1
    assert None not in pinned


def test_a_pin_that_its_repository_has_no_more_is_told(
    project: Project, repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.commit(words="one\n")
    write(project, f"git: {repository.url}")
    before = resolver(project)
    before.resolve("words", SYSTEM)
    lock = Lock().with_entries(before.unlocked())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    repository.git("checkout", "--quiet", "--orphan", "new")
    repository.commit(words="rewritten\n")
    repository.git("branch", "-D", "main")
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("gc", "--quiet", "--prune=now")
    later = resolver(project, lock)
    package = later.resolve("words", SYSTEM)
    with (
        Store.open(str(tmp_path / "store"), create=True) as store,
        pytest.raises(StoreError, match=r"has no commit [0-9a-f]{40}"),
    ):
        instantiate(later.graph([package]), store)


def test_a_branch_that_is_not_there_is_told_with_its_place(project: Project, repository: Repository) -> None:
    repository.commit(words="one\n")
    write(project, f"git: {repository.url}, ref: mian")
    with pytest.raises(UsageError, match=r"words\.yml:3:10: .* has no branch or tag 'mian'"):
        resolver(project).resolve("words", SYSTEM)


WRONG = {
    "git: 'ext::sh -c id'": "3:10: 'ext::sh -c id' is not the URL of a repository",
    "git: --upload-pack=id": "3:10: '--upload-pack=id' is not the URL of a repository",
    "git: https://x/y, ref: --help": "3:28: '--help' cannot name a branch or a tag",
    "git: https://x/y, commit: abc": "3:28: 'abc' is not a whole commit",
    f"git: https://x/y, ref: a, commit: {'0' * 40}": "3:28: 'a' stands beside 'commit'",
    f"git: https://x/y, sha256: {'0' * 64}": "3:1: 'sha256' means nothing beside 'git'",
}


@pytest.mark.parametrize("source", WRONG)
def test_what_cannot_be_a_repository_is_refused(project: Project, source: str) -> None:
    path = project.recipe("words", f"version: 1.0\ntoolchain: host\nsource: {{{source}}}\n")
    with pytest.raises(Faults) as error:
        load(path, "words.yml")
    assert error.value.errors[0].message == f"words.yml:{WRONG[source]}"
