from __future__ import annotations

from reconciler.cli.render.past import (
    entry_text,
    generations_json,
    generations_text,
    history_json,
    history_text,
    host_history_json,
    host_history_text,
)
from reconciler.cli.render.rollback import RollbackView, rollback_text
from reconciler.core.agent.messages import Generation
from reconciler.core.errors import RefusedError, UnreachableError
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.journal import JournalEntry
from reconciler.fleet.look import HostGenerations, HostHistory
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import Plan
from reconciler.fleet.report import HostReport, Report
from tests.cli.values import FD, NGINX, NOW, absent, change, changing, entry, path, ref, unchanged
from tests.cli.values import state as profile_state


def recorded(id_: str, hours: float, *hosts: HostReport, **more: object) -> JournalEntry:
    values: dict[str, object] = {
        "kind": "deploy",
        "when": NOW - hours * 3600,
        "who": "deployer@ops01",
        "message": "nginx 1.26, SHOP-412",
        "action": "switch",
        "inventory": "inventories/shop",
        "revision": "9bc1f04" + "0" * 33,
        "undoes": "",
        "finished": True,
        "seconds": 2.0,
        "hosts": hosts,
    }
    return JournalEntry(id=id_, **(values | more))  # type: ignore[arg-type]


DONE = [HostReport("web01", State.CONFIRMED), HostReport("web02", State.CONFIRMED)]


def test_the_history_is_a_line_for_each_deployment_the_newest_first() -> None:
    entries = [
        recorded("260310-0902-x4", 54, *DONE, message="haproxy 3.0", who="oncall@ops01"),
        recorded("260310-0931-b8", 53.5, *DONE, kind="rollback", undoes="260310-0902-x4", message=""),
        recorded("260312-1412-k7", 0.8, *DONE, HostReport("web03", State.UNREACHABLE)),
    ]
    assert history_text(entries, NOW) == (
        """\
id               when          who        hosts   result                             message
260312-1412-k7   today 14:12   deployer   3       2 confirmed 1 unreachable: web03   nginx 1.26, SHOP-412
260310-0931-b8   Tue 09:30     deployer   2       2 confirmed                        ROLLBACK of 260310-0902-x4
260310-0902-x4   Tue 09:00     oncall     2       2 confirmed                        haproxy 3.0
revision of k7: git 9bc1f04, clean      more: history k7, history --host web01"""
    )


def test_a_history_without_deployments_says_so() -> None:
    assert history_text([], NOW) == "no deployment has been made from here yet"


def test_a_run_whose_controller_died_is_not_called_done() -> None:
    text = history_text([recorded("260312-1412-k7", 1, *DONE, finished=False)], NOW)
    assert "not finished: reconciler status tells" in text
    assert "its controller ended before the run did" in entry_text(recorded("k7", 1, *DONE, finished=False), NOW)


def test_one_deployment_is_told_host_by_host() -> None:
    text = entry_text(recorded("260312-1412-k7", 0.8, *DONE, revision="9bc1f04" + "0" * 33 + "-dirty"), NOW)
    assert text.splitlines()[:5] == [
        "260312-1412-k7   deployer@ops01   'nginx 1.26, SHOP-412'   today 14:12",
        "inventory  inventories/shop   git 9bc1f04, with changes",
        "",
        "host    state",
        "web01   confirmed",
    ]


def test_what_hosts_remember_is_told_with_the_generations() -> None:
    entries = (
        entry("260310-0902-x4", NOW - 3600, message="haproxy"),
        entry(
            "260310-0931-b8", NOW - 1800, kind="rollback", undoes="260310-0902-x4", before=ref(41, "b"), after=ref(40)
        ),
    )
    hosts = [
        HostHistory("web01", entries),
        HostHistory("web02", (), UnreachableError("no answer")),
        HostHistory("web03", ()),
    ]
    assert host_history_text(hosts, NOW) == (
        """\
host    when          id               who              profile   change     message
web01   today 14:30   260310-0931-b8   deployer@ops01   system    41 -> 40   ROLLBACK of 260310-0902-x4
        today 14:00   260310-0902-x4   deployer@ops01   system    40 -> 41   'haproxy'
web02   -             -                -                -         -          UNREACHABLE: no answer
web03   -             -                -                -         -          no history"""
    )
    assert host_history_json(hosts)["hosts"][1] == {"host": "web02", "error": "no answer", "entries": []}


def test_generations_are_listed_newest_first_with_their_packages() -> None:
    generations = (
        Generation(40, path("system"), NOW - 90_000, False, (path("nginx-1.24.0"),)),
        Generation(41, path("system", "b"), NOW - 60, True, (path("nginx-1.26.1"), path("fd-10.2.0"))),
    )
    hosts = [
        HostGenerations("web01", {ProfileId.SYSTEM: generations, ProfileId("deploy"): generations[:1]}),
        HostGenerations("web02", {}, UnreachableError("no answer")),
    ]
    assert generations_text(hosts, NOW) == (
        """\
host    profile   generation     made          packages
web01   system    41 (current)   today 14:59   nginx 1.26.1, fd 10.2.0
                  40             Wed 14:00     nginx 1.24.0
        deploy    40             Wed 14:00     nginx 1.24.0
web02   -         -              -             UNREACHABLE: no answer"""
    )
    document = generations_json(hosts)
    assert [g["number"] for g in document["hosts"][0]["profiles"]["system"]] == [40, 41]
    assert document["hosts"][1]["error"] == "no answer"


def test_the_history_as_json_is_the_journal() -> None:
    document = history_json([recorded("260310-0902-x4", 54, *DONE), recorded("260312-1412-k7", 1, *DONE)])
    assert [each["id"] for each in document["deployments"]] == ["260312-1412-k7", "260310-0902-x4"]


def test_a_deployment_in_the_history_has_the_keys_that_its_own_report_had() -> None:
    off = HostReport("web03", State.UNREACHABLE)
    (kept,) = history_json([recorded("260312-1412-k7", 1, *DONE, off, seconds=2.00049)])["deployments"]
    told = Report("260312-1412-k7", "deploy", "", "", "switch", (*DONE, off), 2.0).to_json()
    assert set(told) - {"deployment", "notes"} <= set(kept)
    assert (kept["status"], kept["seconds"]) == (5, 2.0)
    assert "format" not in kept


# --- rollback ---------------------------------------------------------------------------------------------------------


def undoing() -> RollbackView:
    back = change(NGINX, before=41, will_be=40, to=path("system", "c"))
    fewer = change(FD, user="deploy", before=7, will_be=6)
    hosts = (
        changing("web01", back, fewer),
        changing("web02", back, fewer),
        unchanged("web03"),
        absent("web04"),
        absent(
            "web05",
            State.REFUSED,
            RefusedError("web05 has changed since 260312-1412-k7", "rollback --hosts HOST --to N"),
        ),
    )
    return RollbackView(
        Plan(hosts),
        "260312-1412-k7",
        "deployer@ops01",
        NOW - 48 * 60,
        "nginx 1.26, SHOP-412",
        "9bc1f04" + "0" * 33,
        {"web03": "k7 did not change it"},
        NOW,
    )


def test_a_rollback_shows_what_it_puts_back_what_it_cannot_and_what_comes_afterwards() -> None:
    assert rollback_text(undoing(), nothing_changed=True) == (
        """\
260312-1412-k7   'nginx 1.26, SHOP-412'   deployer@ops01, today 14:12, 5 hosts
puts back what each had before it:

host    profile      now -> to   what changes
web01   system       41 -> 40    nginx 1.24.0 -> 1.26.1
        deploy       7 -> 6      + fd 10.2.0
web02   (the same)
web03   -                        nothing: k7 did not change it
web04   -                        UNREACHABLE: ssh: connection timed out after 10 s
web05   -                        REFUSED: web05 has changed since 260312-1412-k7   next  rollback --hosts HOST --to N

every generation is on its host and complete; nothing to copy
not undone   data (/var), accounts, what scripts and services did meanwhile
afterwards   while the inventory still asks for what this undoes (nginx 1.24.0), the next deploy of these
             hosts says so and needs --again.  git revert 9bc1f04  is the lasting undo.
Nothing was changed."""
    )


def test_a_rollback_that_goes_on_does_not_say_that_nothing_was_changed() -> None:
    text = rollback_text(undoing(), nothing_changed=False)
    assert text.endswith("is the lasting undo.")


def test_a_rollback_with_nothing_to_put_back_says_so() -> None:
    view = RollbackView(Plan((unchanged("web01"),)), "260312-1412-k7")
    assert rollback_text(view, nothing_changed=False).splitlines()[-1] == "Nothing to put back."
    assert rollback_text(view, nothing_changed=True).splitlines()[-2:] == [
        "Nothing to put back.",
        "Nothing was changed.",
    ]


def test_undoing_a_first_deployment_takes_the_profile_away() -> None:
    view = RollbackView(Plan((changing("web01", change(before=1, to="")),)), "260312-1412-k7")
    assert (
        "web01   system    1 -> none   the profile goes away" in rollback_text(view, nothing_changed=True).splitlines()
    )


def test_a_rollback_to_a_number_says_that_generations_were_named() -> None:
    view = RollbackView(Plan((changing("web01", change(NGINX, before=41, will_be=38)),)))
    assert rollback_text(view, nothing_changed=True).splitlines()[0] == "goes back to the generations that were named:"
    assert profile_state("system", 3).current == ref(3)
