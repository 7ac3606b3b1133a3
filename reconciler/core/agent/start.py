"""The agent's first module: it runs as `__main__`, out of the archive, and imports the rest from there.

bootstrap.py runs it with FORM, ARCHIVE, SHA, CACHE, KEEP and ROOT in its namespace. FORM is the archive's zipimporter,
or for a compiled file its descriptor and index. Such a file is

    hash(index) size(index) index blob*       size: u32 big-endian; index and blobs are marshalled

and its index maps a module's name to (is a package, offset, size, hash of the blob). The hashes are BLAKE2b, 32 bytes:
every interpreter has a fast one of its own. Every blob is checked when it is loaded. `*engine` maps to the versions
that the file was compiled for, `*patterns` to a blob of compiled patterns. On the host nothing of core is found in any
other way.
"""

# Without types, since nothing but this file is there yet.
# mypy: ignore-errors
# ruff: noqa: ARG002

from __future__ import annotations

import sys

PREFIX = "reconciler"
# Entries of the index that are no modules: what the file was compiled for, and lean.py's precompiled patterns.
ENGINE = "*engine"
PATTERNS = "*patterns"


def engine():
    """The versions of the byte code and of the matching engine that a compiled file holds for."""
    import _frozen_importlib_external
    import _sre

    return bytes(_frozen_importlib_external.MAGIC_NUMBER), _sre.MAGIC


class Compiled:
    """Modules out of a compiled file; out of the archive beside it from the moment that the file turns out damaged."""

    def __init__(self, descriptor, index, archive):
        self._descriptor = descriptor
        self._index = index
        self._archive = archive
        self._other = None if index.get(ENGINE) == engine() else self._zipped()

    def load(self, name):
        if self._other is None:
            if name not in self._index:
                return None
            package, value = self._blob(name)
            if self._other is None:
                return package, value
        return self._other.load(name)

    def patterns(self):
        return self._blob(PATTERNS)[1] or {} if self._other is None else {}

    def _blob(self, name):
        import marshal
        import os
        from _blake2 import blake2b

        package, offset, size, digest = self._index[name]
        blob = os.pread(self._descriptor, size, offset)
        if blake2b(blob, digest_size=32).digest() != digest:
            self._other = self._zipped()
            return None, None
        return package, marshal.loads(blob)  # noqa: S302  # root's own file, and what root's own hash says

    def _zipped(self):
        import zipimport
        from hashlib import sha256

        path, sha = self._archive
        with open(path, "rb") as file:
            if sha256(file.read()).hexdigest() != sha:
                raise ImportError(path + " is damaged")
        return Zipped(zipimport.zipimporter(path))


class Zipped:
    """Modules out of the archive itself."""

    def __init__(self, importer):
        self._importer = importer

    def load(self, name):
        path = name.replace(".", "/")
        for package, member in ((True, path + "/__init__.py"), (False, path + ".py")):
            try:
                source = self._importer.get_data(member)
            except OSError:
                continue
            return package, compile(source, "<agent>/" + member, "exec", dont_inherit=True)
        return None


class Finder:
    """A meta path finder and loader for what the form holds. Modules of core see lean.py's stand-ins."""

    def __init__(self, form, spec):
        self._form = form
        self._spec = spec
        self._builtins = None

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != PREFIX:
            return None
        found = self._form.load(name)
        if found is None:
            return None
        spec = self._spec(name, self, is_package=found[0])
        spec.loader_state = found[1]
        return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        if self._builtins is not None:
            module.__dict__["__builtins__"] = self._builtins
        exec(module.__spec__.loader_state, module.__dict__)  # noqa: S102  # this is what a loader does

    def get_code(self, name):
        """A module's code, for the sandbox's helper, which runs it in a process of its own."""
        found = self._form.load(name)
        return None if found is None else found[1]

    def lean(self):
        from reconciler.core.agent import lean

        if isinstance(self._form, Compiled):
            lean.precompiled.update(self._form.patterns())
        self._builtins = lean.builtins_for_core()


def main(namespace):
    """Make core importable and serve."""
    form = namespace["FORM"]
    if isinstance(form, tuple):
        path = namespace["CACHE"] + "/" + namespace["SHA"] + ".zip"
        source = Compiled(form[0], form[1], (path, namespace["SHA"]))
    else:
        source = Zipped(form)
    finder = Finder(source, type(sys.__spec__))
    sys.meta_path.insert(0, finder)
    finder.lean()
    from reconciler.core.agent.server import Settings, serve

    serve(
        Settings(
            root=namespace["ROOT"],
            sha256=namespace["SHA"],
            cache=namespace["CACHE"],
            keep=namespace["KEEP"],
            archive=namespace["ARCHIVE"],
        )
    )


if __name__ == "__main__":
    main(globals())
