"""The verbs of the agent: what each takes, what it answers with, and which function does it.

There is no other way to make an agent do something, and no verb runs a string. A function is named by its module, which
is imported when the verb is first used: a probe does not pay for the builder.
"""

from __future__ import annotations

import sys
from typing import Any, Callable

from reconciler.core.agent import messages as m
from reconciler.core.errors import FormatError
from reconciler.core.values import value

HERE = "reconciler.core.agent."


@value
class Verb:
    """`streams`: the function takes the session too, since it sends or receives more than its reply. `writes`: it
    changes what is in /nix/store, or comes before one that does."""

    name: str
    request: type[m.Message]
    reply: type[m.Message]
    function: str
    streams: bool = False
    writes: bool = False

    def load(self) -> Callable[..., Any]:
        module, _, name = self.function.partition(":")
        __import__(HERE + module)  # importlib's own function would cost the import of importlib
        found: Callable[..., Any] = getattr(sys.modules[HERE + module], name)
        return found


_ALL = (
    Verb("observe", m.ObserveRequest, m.Observation, "observe:observe"),
    Verb("begin", m.BeginRequest, m.Begun, "lock:begin", writes=True),
    Verb("missing", m.MissingRequest, m.MissingReply, "transfer:missing", streams=True, writes=True),
    Verb("import", m.ImportRequest, m.ImportReply, "transfer:import_paths", streams=True, writes=True),
    Verb("substitute", m.SubstituteRequest, m.SubstituteReply, "substituting:substitute", streams=True, writes=True),
    Verb("realise", m.RealiseRequest, m.RealiseReply, "realising:realise", streams=True, writes=True),
    Verb("stage", m.StageRequest, m.StageReply, "stage:stage"),
    Verb("switch", m.SwitchRequest, m.SwitchReply, "change:switch"),
    Verb("generations", m.ProfilesRequest, m.GenerationsReply, "observe:generations"),
    Verb("history", m.HistoryRequest, m.HistoryReply, "history:history"),
    Verb("log", m.LogRequest, m.LogReply, "realising:log"),
    Verb("export", m.ExportRequest, m.ExportReply, "transfer:export", streams=True),
    Verb("holdings", m.HoldingsRequest, m.HoldingsReply, "holdings:holdings"),
    Verb("leave", m.LeaveRequest, m.LeaveReply, "leave:leave", writes=True),
    Verb("collect", m.CollectRequest, m.CollectReply, "collect:collect", streams=True, writes=True),
    Verb("verify", m.VerifyRequest, m.VerifyReply, "upkeep:verify", streams=True),
    Verb("repair", m.RepairRequest, m.RepairReply, "upkeep:repair", streams=True, writes=True),
    Verb("optimise", m.OptimiseRequest, m.OptimiseReply, "upkeep:optimise", streams=True, writes=True),
)
VERBS = {verb.name: verb for verb in _ALL}


def find(name: object) -> Verb:
    """The verb of that name; FormatError when there is none."""
    verb = VERBS.get(name) if isinstance(name, str) else None
    if verb is None:
        raise FormatError(f"there is no verb {name!r}")
    return verb
