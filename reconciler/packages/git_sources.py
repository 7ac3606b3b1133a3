"""Sources from git repositories: a commit's tree as a source path, pinned in the lock.

A recipe names a repository and a branch, a tag or a commit; the lock says which commit that is and which store path its
tree has, so that both are known before anything is fetched. The tree is what `git archive` gives, without submodules.
Git runs with the user's own credentials and without asking; repositories are kept in the cache directory.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import StoreError
from reconciler.core.fs import FileLock
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath, source_path
from reconciler.core.store.store import Store
from reconciler.packages.downloads import cache_directory, run
from reconciler.packages.lock import EVERY_SYSTEM, LockEntry
from reconciler.packages.specs import GitSpec

SET = "git"
DEADLINE = 900.0  # seconds for one run of git
COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_NOT_ALLOWED = re.compile(r"[^0-9a-zA-Z+\-._?=]")
# No transport that runs a program of the URL's choice.
_PROTOCOLS = "file:git:http:https:ssh"
# What somebody's own configuration would change in a tree: line ends, attributes, mode bits, abbreviated commits.
_SAME_FOR_ALL = (
    "core.autocrlf=false",
    "core.eol=lf",
    "core.attributesFile=/dev/null",
    "tar.umask=0022",
    "core.abbrev=12",
)


@dataclass(frozen=True)
class GitSource:
    """One commit's tree. `path` is what the lock says, or what was found when it was looked up."""

    path: StorePath
    url: str
    commit: str

    def add_to(self, store: Store) -> None:
        if store.is_valid(self.path):
            return
        with _tree(self.url, self.commit) as directory:
            added = store.add_path(self.path.name, str(directory))
        if added != self.path:
            raise StoreError(
                f"commit {self.commit} of {self.url} is not what is locked: it is {added}, not {self.path}",
                hint="the repository's history was rewritten, or this git exports otherwise; reconciler lock --update",
            )


def reference(spec: GitSpec) -> str:
    """What the lock calls a source: `git+https://example.org/x.git#main`."""
    return f"git+{spec.url}#{spec.commit or spec.ref or 'HEAD'}"


def look_up(spec: GitSpec) -> LockEntry:
    """The commit that a branch or tag is now, and the store path of its tree. StoreError when git cannot tell."""
    commit = spec.commit or _commit_of(spec.url, spec.ref or "HEAD")
    with _tree(spec.url, commit) as directory:
        nar_hash, _ = nar.hash_path(str(directory))
    path = source_path(_name(spec.url), nar_hash)
    return LockEntry(reference(spec), EVERY_SYSTEM, SET, commit, path=path)


def source(entry: LockEntry, spec: GitSpec) -> GitSource:
    """The source of a pin."""
    assert entry.path is not None
    return GitSource(entry.path, spec.url, entry.version)


def _name(url: str) -> str:
    base = url.rstrip("/").rpartition("/")[2].rpartition(":")[2].removesuffix(".git")
    return _NOT_ALLOWED.sub("-", base).lstrip(".") or "source"


def _commit_of(url: str, ref: str) -> str:
    listed = _git(["ls-remote", "--exit-code", "--", url, ref, f"{ref}^{{}}"], f"{url} has no branch or tag '{ref}'")
    found: dict[str, str] = {}
    for line in listed.decode(errors="replace").splitlines():
        commit, _, name = line.partition("\t")
        found[name] = commit
    # A tag that is an object of its own stands for the commit that it names.
    for name in (f"refs/tags/{ref}^{{}}", f"refs/heads/{ref}", f"refs/tags/{ref}", ref):
        if name in found and COMMIT.fullmatch(found[name]):
            return found[name]
    raise StoreError(f"{url} has no branch or tag '{ref}'")


@contextmanager
def _tree(url: str, commit: str) -> Iterator[Path]:
    """The tree of a commit in a directory that lasts as long as the block."""
    repository = cache_directory() / "git" / hashlib.sha256(url.encode()).hexdigest()[:32]
    repository.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(repository.with_suffix(".lock"))):
        if not (repository / "HEAD").exists():
            _git(["init", "--quiet", "--bare", str(repository)], f"{repository}: no repository can be made there")
        if not _has(repository, commit):
            _fetch(repository, url, commit)
        same = [word for setting in _SAME_FOR_ALL for word in ("-c", setting)]
        archive = _git(
            [*same, "-C", str(repository), "archive", "--format=tar", commit], f"{url} has no commit {commit}"
        )
    with tempfile.TemporaryDirectory(prefix="reconciler-git-") as scratch:
        directory = Path(scratch) / "tree"
        directory.mkdir()
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            _unpack(tar, directory, url)
        yield directory


def _unpack(tar: tarfile.TarFile, directory: Path, url: str) -> None:
    """Write the files, links and directories of an archive that git made below `directory`, which is empty. Whatever a
    repository holds, nothing is written elsewhere: each name is new, and stands in a directory that was made here.
    (The filters of tarfile are not in every Python 3.11.)"""
    made = {Path()}
    for member in tar:
        name = Path(member.name)
        if name == Path() and member.isdir():
            continue
        if name.is_absolute() or ".." in name.parts or name.parent not in made:
            raise StoreError(f"{url} holds the name {member.name!r}, which cannot be unpacked")
        place = directory / name
        if member.isdir():
            place.mkdir()
            made.add(name)
        elif member.issym():
            place.symlink_to(member.linkname)
        elif (file := tar.extractfile(member)) is not None and member.isreg():
            with file, open(place, "xb") as target:
                shutil.copyfileobj(file, target)
            place.chmod(0o755 if member.mode & 0o100 else 0o644)


def _has(repository: Path, commit: str) -> bool:
    try:
        _git(["-C", str(repository), "cat-file", "-e", f"{commit}^{{commit}}"], "")
    except StoreError:
        return False
    return True


def _fetch(repository: Path, url: str, commit: str) -> None:
    """One commit alone where the server gives it, else everything that it has."""
    told = f"{url} cannot be fetched"
    try:
        _git(["-C", str(repository), "fetch", "--quiet", "--depth=1", "--no-tags", "--", url, commit], told)
    except StoreError:
        everything = ["fetch", "--quiet", "--", url, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        _git(["-C", str(repository), *everything], told)
    if not _has(repository, commit):
        raise StoreError(f"{url} has no commit {commit}", hint="was its history rewritten?")


def _git(arguments: list[str], told: str) -> bytes:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_DIR")},
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
    }
    try:
        done = run(["git", "-c", "core.hooksPath=/dev/null", *arguments], DEADLINE, environment)
    except StoreError as error:
        raise StoreError(f"{told}: {error.message}", error.hint) from None
    if done.status != 0:
        said = done.last_lines(1).strip()
        raise StoreError(f"{told}{f': {said}' if said else ''}")
    return done.out
