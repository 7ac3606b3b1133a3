"""The agent's first module: it runs as `__main__`, out of the agent's own code, and imports the rest from there.

bootstrap.py runs it with FORM, ARCHIVE, SHA, CACHE, KEEP and ROOT in its namespace. FORM is the archive's zipimporter,
or for compiled code a mapping from a module's name to (is a package, its marshalled code). On the host nothing of core
is found in any other way.
"""

# Without types, since nothing but this file is there yet.
# mypy: ignore-errors
# ruff: noqa: ARG002

from __future__ import annotations

import marshal
import sys

PREFIX = "reconciler"


class Finder:
    """A meta path finder and loader for what the form holds."""

    def __init__(self, form, spec):
        self._form = form
        self._spec = spec
        self._load = self._compiled if isinstance(form, dict) else self._zipped

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != PREFIX:
            return None
        found = self._load(name)
        if found is None:
            return None
        spec = self._spec(name, self, is_package=found[0])
        spec.loader_state = found[1]
        return spec

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(module.__spec__.loader_state, module.__dict__)  # noqa: S102  # this is what a loader does

    def get_code(self, name):
        """A module's code, for the sandbox's helper, which runs it in a process of its own."""
        found = self._load(name)
        return None if found is None else found[1]

    def _compiled(self, name):
        if name not in self._form:
            return None
        package, code = self._form[name]
        return package, marshal.loads(code)  # noqa: S302  # checked by bootstrap.py

    def _zipped(self, name):
        path = name.replace(".", "/")
        for package, member in ((True, path + "/__init__.py"), (False, path + ".py")):
            try:
                source = self._form.get_data(member)
            except OSError:
                continue
            return package, compile(source, "<agent>/" + member, "exec", dont_inherit=True)
        return None


def main(namespace):
    """Make core importable and serve."""
    sys.meta_path.insert(0, Finder(namespace["FORM"], type(sys.__spec__)))
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
