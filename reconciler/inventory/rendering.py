"""Templates rendered: jinja2 in its sandbox. Imported when the first template is met; see templates.py."""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, Undefined, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["ENVIRONMENT", "TemplateSyntaxError", "UndefinedError", "evaluate"]

_WHOLE = re.compile(r"\s*\{\{-?(?P<expression>(?:(?!\{\{|\}\}).)*?)-?\}\}\s*", re.DOTALL)
_RESULT = "reconciler_result"

ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)


def evaluate(text: str, variables: Mapping[str, Any]) -> Any:
    """What a template renders to: text, or the value of one whole expression. Raises what jinja2 and the template's
    own expressions raise, and whatever looking up a variable does."""
    template, whole = _compiled(text)
    # Shared: jinja2 asks `variables` for each name that it meets, instead of rendering all of them first.
    context = template.new_context(variables, shared=True)  # type: ignore[arg-type]
    if not whole:
        return "".join(template.root_render_func(context))
    deque(template.root_render_func(context), maxlen=0)
    result = context.vars[_RESULT]
    if isinstance(result, Undefined):
        str(result)  # raises, naming what is undefined
    return result


@functools.lru_cache(maxsize=4096)
def _compiled(text: str) -> tuple[Template, bool]:
    """The template of a text, and whether it is one whole expression, whose value is then set under a name."""
    whole = _WHOLE.fullmatch(text)
    if whole is None:
        return ENVIRONMENT.from_string(text), False
    return ENVIRONMENT.from_string(f"{{% set {_RESULT} = ({whole['expression']}) %}}"), True
