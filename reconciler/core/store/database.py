"""The database of a store: what is asked of it, and what is changed in it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.connection import Connection
from reconciler.core.store.path_info import PathInfo
from reconciler.core.values import value

if TYPE_CHECKING:
    import sqlite3

_AT_ONCE = 500  # values in one statement; SQLite of old allows 999
_WHOLE_ROWS = "select id, path, hash, narSize, deriver, sigs, ca, ultimate, registrationTime from ValidPaths"
_GRAPH = (
    "select id, path, deriver, narSize from ValidPaths",
    "select referrer, reference from Refs where referrer <> reference",
    "select drv, path from DerivationOutputs",
)
_ORPHANS = {
    "Refs": "select count(*) from Refs where referrer not in (select id from ValidPaths)",
    "DerivationOutputs": "select count(*) from DerivationOutputs where drv not in (select id from ValidPaths)",
}


@value
class Row:
    """One row of ValidPaths as it stands, right or not: path, columns, and the paths that it refers to, of which None
    is one that is not registered."""

    path: Any
    columns: tuple[Any, ...]
    references: tuple[str | None, ...]

    def info(self) -> PathInfo:
        """What the row says; FormatError when it cannot be what a row says."""
        if not isinstance(self.path, str) or not isinstance(self.columns[0], str):
            raise FormatError(f"{self.path!r}: its path and its hash must be text")
        return _info(StorePath.parse(self.path), self.columns, [text for text in self.references if text])


@value
class Graph:
    """Every row of a database, as plain as it stands, for questions about the whole store."""

    paths: list[tuple[int, str, str | None, int | None]]  # id, path, deriver, size of its NAR
    references: list[tuple[int, int]]  # referrer, reference; without those to itself
    outputs: list[tuple[int, str]]  # derivation, path of an output


class Database(Connection):
    """A store's valid paths. StoreError for whatever SQLite reports."""

    def valid(self, paths: Iterable[StorePath]) -> set[StorePath]:
        """Those of `paths` that are registered."""
        by_text = {str(path): path for path in paths}
        found: set[StorePath] = set()
        with self.used() as connection:
            for rows in _each(connection, "select path from ValidPaths where path in (%s)", list(by_text)):
                found.update(by_text[text] for (text,) in rows)
        return found

    def info(self, path: StorePath) -> PathInfo | None:
        """What is registered of `path`, or None."""
        with self.used() as connection:
            row = connection.execute(
                "select id, hash, narSize, deriver, sigs, ca, ultimate, registrationTime"
                " from ValidPaths where path = ?",
                (str(path),),
            ).fetchone()
            if row is None:
                return None
            references = connection.execute(
                "select path from Refs join ValidPaths on reference = id where referrer = ?", (row[0],)
            ).fetchall()
        return _info(path, row[1:], [text for (text,) in references])

    def infos(self, paths: Iterable[StorePath]) -> dict[StorePath, PathInfo]:
        """What is registered of each of `paths` that is valid, in few statements."""
        by_text = {str(path): path for path in paths}
        rows: dict[int, tuple[StorePath, Sequence[Any]]] = {}
        references: dict[int, list[str]] = {}
        with self.used() as connection:
            query = (
                "select id, path, hash, narSize, deriver, sigs, ca, ultimate, registrationTime"
                " from ValidPaths where path in (%s)"
            )
            for found in _each(connection, query, list(by_text)):
                rows.update({row[0]: (by_text[row[1]], row[2:]) for row in found})
            query = "select referrer, path from Refs join ValidPaths on reference = id where referrer in (%s)"
            for found in _each(connection, query, list(rows)):
                for referrer, text in found:
                    references.setdefault(referrer, []).append(text)
        return {path: _info(path, row, references.get(id_, [])) for id_, (path, row) in rows.items()}

    def reachable(self, paths: Iterable[StorePath]) -> dict[StorePath, set[StorePath]]:
        """The valid ones among `paths` and all that they refer to, each with its references other than itself."""
        names: dict[int, StorePath] = {}
        edges: dict[int, set[int]] = {}
        with self.used() as connection:
            query = "select id, path from ValidPaths where path in (%s)"
            fresh = [row for rows in _each(connection, query, [str(path) for path in paths]) for row in rows]
            while fresh:
                names.update((id_, StorePath.parse(text)) for id_, text in fresh)
                ids = [id_ for id_, _ in fresh]
                edges.update((id_, set()) for id_ in ids)
                for rows in _each(connection, "select referrer, reference from Refs where referrer in (%s)", ids):
                    for referrer, reference in rows:
                        edges[referrer].add(reference)
                unknown = {reference for id_ in ids for reference in edges[id_] if reference not in names}
                query = "select id, path from ValidPaths where id in (%s)"
                fresh = [row for rows in _each(connection, query, list(unknown)) for row in rows]
        return {names[id_]: {names[to] for to in targets if to != id_} for id_, targets in edges.items()}

    def referrers(self, path: StorePath) -> set[StorePath]:
        """The valid paths that refer to `path`, itself included when it does."""
        with self.used() as connection:
            rows = connection.execute(
                "select path from ValidPaths where id in (select referrer from Refs where reference ="
                " (select id from ValidPaths where path = ?))",
                (str(path),),
            ).fetchall()
        return {StorePath.parse(text) for (text,) in rows}

    def outputs(self, drv: StorePath) -> dict[str, StorePath]:
        """The outputs of a valid derivation, by name."""
        with self.used() as connection:
            rows = connection.execute(
                "select o.id, o.path from DerivationOutputs o join ValidPaths v on o.drv = v.id where v.path = ?",
                (str(drv),),
            ).fetchall()
        return {name: StorePath.parse(text) for name, text in rows}

    def derivers(self, output: StorePath) -> set[StorePath]:
        """The valid derivations that have `output` among their outputs."""
        with self.used() as connection:
            rows = connection.execute(
                "select v.path from DerivationOutputs o join ValidPaths v on o.drv = v.id where o.path = ?",
                (str(output),),
            ).fetchall()
        return {StorePath.parse(text) for (text,) in rows}

    def rows(self, after: str = "") -> list[Row]:
        """The first rows whose paths come after `after`, in the order of their paths; none at the end."""
        with self.used() as connection:
            found = connection.execute(f"{_WHOLE_ROWS} where path > ? order by path limit ?", (after, _AT_ONCE))
            return _with_references(connection, found.fetchall())

    def rows_of(self, paths: Iterable[StorePath]) -> list[Row]:
        """The rows of those of `paths` that are registered, in no order."""
        query, texts = f"{_WHOLE_ROWS} where path in (%s)", [str(path) for path in paths]
        with self.used() as connection:
            return _with_references(connection, [row for rows in _each(connection, query, texts) for row in rows])

    def damage(self) -> list[str]:
        """What SQLite itself finds wrong with the file, and rows that belong to no path; each in words."""
        with self.used() as connection:
            found = [str(text) for (text,) in connection.execute("pragma integrity_check(20)") if text != "ok"]
            for table, query in _ORPHANS.items():
                (count,) = connection.execute(query).fetchone()
                if count:
                    found.append(f"{table}: {count} row{'s' * (count > 1)} of paths that are not registered")
        return found

    def graph(self) -> Graph:
        """All that is registered, as of one moment."""
        with self.used() as connection:
            connection.execute("begin")
            try:
                return Graph(*(connection.execute(query).fetchall() for query in _GRAPH))
            finally:
                connection.execute("rollback")

    # --- changes ------------------------------------------------------------------------------------------------------

    def unregister(self, paths: Sequence[str], unknown: Sequence[str]) -> set[str]:
        """Make `paths` (in full; referrers before their references) valid no more, in one transaction.

        Those of `paths` and `unknown` that are not registered then: a path to which another one refers stays, and so
        does one of `unknown` that somebody has registered meanwhile.
        """
        import sqlite3

        with self.transaction() as connection:
            for path in paths:
                with contextlib.suppress(sqlite3.IntegrityError):
                    connection.execute("delete from ValidPaths where path = ?", (path,))
            there = _each(connection, "select path from ValidPaths where path in (%s)", [*paths, *unknown])
            return {*paths, *unknown} - {path for rows in there for (path,) in rows}

    def register(self, infos: Sequence[PathInfo], outputs: Mapping[StorePath, Mapping[str, StorePath]]) -> None:
        """Make all of `infos` valid, in one transaction. `outputs`: those of each derivation among them.

        A path that is valid already keeps what is registered of it. StoreError, and nothing registered, when a
        reference is neither valid nor among `infos`.
        """
        now = int(time.time())
        with self.transaction() as connection:
            ids = _ids(connection, [info.path for info in infos])
            new = [info for info in infos if info.path not in ids]
            for info in new:
                if info.path not in ids:
                    ids[info.path] = _insert(connection, info, now)
            wanted = {reference for info in new for reference in info.references} - ids.keys()
            ids.update(_ids(connection, list(wanted)))
            for info in new:
                missing = [reference for reference in info.references if reference not in ids]
                if missing:
                    raise StoreError(f"{info.path} refers to {missing[0]}, which is not valid")
                connection.executemany(
                    "insert or ignore into Refs (referrer, reference) values (?, ?)",
                    [(ids[info.path], ids[reference]) for reference in info.references],
                )
                connection.executemany(
                    "insert or replace into DerivationOutputs (drv, id, path) values (?, ?, ?)",
                    [(ids[info.path], name, str(path)) for name, path in outputs.get(info.path, {}).items()],
                )


def _each(connection: sqlite3.Connection, query: str, values: Sequence[object]) -> Iterator[list[Any]]:
    """The rows of `query` with its `%s` as a list of `values`, so many of them at a time as a statement may have."""
    for start in range(0, len(values), _AT_ONCE):
        part = values[start : start + _AT_ONCE]
        yield connection.execute(query % ",".join("?" * len(part)), part).fetchall()


def _with_references(connection: sqlite3.Connection, rows: Sequence[Sequence[Any]]) -> list[Row]:
    references: dict[int, list[str | None]] = {}
    query = "select referrer, path from Refs left join ValidPaths on reference = id where referrer in (%s)"
    for found in _each(connection, query, [row[0] for row in rows]):
        for referrer, text in found:
            references.setdefault(referrer, []).append(text)
    return [Row(path, tuple(columns), tuple(references.get(id_, ()))) for id_, path, *columns in rows]


def _ids(connection: sqlite3.Connection, paths: Sequence[StorePath]) -> dict[StorePath, int]:
    by_text = {str(path): path for path in paths}
    found = _each(connection, "select path, id from ValidPaths where path in (%s)", list(by_text))
    return {by_text[text]: id_ for rows in found for text, id_ in rows}


def _insert(connection: sqlite3.Connection, info: PathInfo, now: int) -> int:
    row = (
        str(info.path),
        info.nar_hash.hex_prefixed,
        info.registered or now,
        str(info.deriver) if info.deriver else None,
        info.nar_size,
        1 if info.ultimate else None,
        " ".join(info.signatures) or None,
        info.ca or None,
    )
    cursor = connection.execute(
        "insert into ValidPaths (path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)"
        " values (?, ?, ?, ?, ?, ?, ?, ?)",
        row,
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _info(path: StorePath, row: Sequence[Any], references: Iterable[str]) -> PathInfo:
    hash_, nar_size, deriver, signatures, ca, ultimate, registered = row
    return PathInfo(
        path=path,
        nar_hash=Hash.parse(hash_),
        nar_size=nar_size or 0,
        references=tuple(sorted(map(StorePath.parse, references))),
        deriver=StorePath.parse(deriver) if deriver else None,
        signatures=tuple((signatures or "").split()),
        ca=ca or "",
        ultimate=bool(ultimate),
        registered=registered,
    )
