from __future__ import annotations

import dataclasses

import pytest

from reconciler.cli.render.plan import PlanView, brings_back, diff_text, plan_json, plan_text
from reconciler.core.errors import ReconcilerError
from reconciler.core.values import replace
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import HostPlan, Plan
from reconciler.fleet.prepared import Fetches, Site
from tests.cli import values
from tests.cli.values import FD, GEOIP, MAXMIND, MIB, NGINX, NOW, SHOP, absent, change, changing, entry, unchanged


def view(*hosts: HostPlan, **more: object) -> PlanView:
    facts: dict[str, object] = {
        "inventory": "inventories/shop",
        "revision": "git 9bc1f04, clean",
        "pattern": "web*",
        "group": "web",
        "seconds": 1.8,
        "next": "deploy --hosts 'web*'",
        "now": NOW,
    }
    return PlanView(plan=Plan(hosts), **(facts | more))  # type: ignore[arg-type]


def test_a_plan_groups_hosts_that_change_alike() -> None:
    changes = (change(NGINX, MAXMIND, GEOIP, SHOP), change(FD, user="deploy", before=6, will_be=7))
    hosts = [changing(f"web0{n}", *changes) for n in (1, 2, 3)]
    copies = {host.host: int(6.3 * MIB) for host in hosts}
    assert plan_text(
        view(*hosts, unchanged("web04"), sites=(Site(("controller",), ("shop-app-2.8.0",)),), copy_bytes=copies)
    ) == (
        """\
inventory  inventories/shop   git 9bc1f04, clean
hosts      'web*' matches 4 (group web)   probed in 1.8 s

3 hosts    web01 web02 web03
  system   ~ nginx          1.24.0 -> 1.26.1
           + libmaxminddb   1.9.1
           - geoip          1.6.12
           ~ shop-app       2.8.0 rebuilt
  deploy   + fd             10.2.0

1 host     web04   nothing to do

realise    1 build here (shop-app-2.8.0)
copy       6.3 MiB to each of 3 hosts; free on /nix: 4.0 GiB at least

Plan: 3 to change, 1 unchanged, 0 unreachable.  Nothing was changed.
next       deploy --hosts 'web*'"""
    )


def test_a_first_deployment_says_what_it_makes_and_what_it_keeps() -> None:
    host = changing("db01", change(NGINX, before=None, will_be=1), managed=False)
    text = plan_text(view(host, creates=("/etc/profile.d/reconciler.sh", "/etc/tmpfiles.d/reconciler.conf")))
    assert (
        """\
1 host     db01   first deployment: this host is not managed yet
  creates  /nix (4.0 GiB free on its file system), /etc/profile.d/reconciler.sh, /etc/tmpfiles.d/reconciler.conf
  keeps    everything else; `reconciler leave --hosts db01` removes all of it
  system   ~ nginx   1.24.0 -> 1.26.1
"""
        in text
    )


def test_a_first_deployment_with_users_says_what_it_makes_in_homes_and_for_a_shell_that_may_be_there() -> None:
    host = changing("db01", change(FD, user="alice"), change(FD, user="bob"), managed=False)
    also = ("/etc/fish/x where fish is", "/etc/y where y is")
    lines = plan_text(view(host, creates=("/etc/x",), creates_also=also)).splitlines()
    assert lines[4:9] == [
        "  creates  /nix (4.0 GiB free on its file system), /etc/x",
        "           ~/.nix-profile of alice bob, unless it is there",
        "           /etc/fish/x where fish is",
        "           /etc/y where y is",
        "  keeps    everything else; `reconciler leave --hosts db01` removes all of it",
    ]


def test_a_first_deployment_by_a_user_of_a_daemon_says_what_it_makes_in_the_home_alone() -> None:
    host = changing("db01", change(FD, user="alice"), managed=False)
    assert host.observation is not None
    host = dataclasses.replace(host, observation=replace(host.observation, login="alice"))
    lines = plan_text(view(host, creates=("/etc/x",), creates_also=("/etc/y where y is",))).splitlines()
    assert lines[4:7] == [
        "  creates  ~/.local/state/reconciler of alice; /nix (4.0 GiB free on its file system) is its Nix daemon's",
        "           ~/.nix-profile of alice, unless it is there",
        "  keeps    everything else; `reconciler leave --hosts db01` removes all of it",
    ]


def test_hosts_that_cannot_take_part_are_told_with_the_reason_and_what_to_do() -> None:
    unfit = ReconcilerError("Python 3.6: needs 3.9", hint="ansible_python_interpreter: /usr/bin/python3.9")
    text = plan_text(view(absent("web01"), absent("web02", State.FAILED, unfit), absent("web03")))
    assert text.splitlines()[3:] == [
        "2 hosts    web01 web03   UNREACHABLE: ssh: connection timed out after 10 s",
        "",
        "1 host     web02   FAILED: Python 3.6: needs 3.9",
        "           next  ansible_python_interpreter: /usr/bin/python3.9",
        "",
        "Plan: 0 to change, 0 unchanged, 2 unreachable, 1 failed.  Nothing was changed.",
    ]


def test_a_profile_that_is_left_out_is_named_below_its_host() -> None:
    host = HostPlan(
        "web01", State.PLANNED, values.observation(), (change(NGINX),), {"alice": "there is no such account"}
    )
    assert "  alice    left out: there is no such account" in plan_text(view(host)).splitlines()


def test_a_user_who_left_the_inventory_keeps_the_account() -> None:
    host = changing("web01", change(GEOIP, user="bob", orphaned=True))
    assert plan_text(view(host)).splitlines()[4:6] == [
        "  bob      - geoip   1.6.12",
        "           (this user left the inventory: an empty generation; the account stays)",
    ]


def test_what_was_rolled_back_is_noted_with_who_and_when() -> None:
    undone = entry("260312-1435-k8", NOW - 1500, kind="rollback", message="shop 502s", before=values.ref(41, "b"))
    hosts = [changing(name, change(NGINX, GEOIP), undone=(undone,)) for name in ("web01", "web02")]
    warning = "nginx 1.26.1 on web01 web02, which deployer rolled back 25 min ago (k8: 'shop 502s')"
    assert f"note       brings back {warning}" in plan_text(view(*hosts)).splitlines()
    assert brings_back(Plan(tuple(hosts)), NOW) == warning
    assert brings_back(Plan((changing("web01", change(NGINX)),)), NOW) == ""


def test_a_plan_that_something_follows_does_not_say_that_nothing_was_changed() -> None:
    text = plan_text(view(changing("web01", change(NGINX))), nothing_changed=False)
    assert text.splitlines()[-1] == "Plan: 1 to change, 0 unchanged, 0 unreachable."


def test_where_nothing_changes_there_are_no_costs_and_no_next_command() -> None:
    text = plan_text(view(unchanged("web01"), unchanged("web02")))
    assert text.splitlines()[3:] == [
        "2 hosts    web01 web02   nothing to do",
        "",
        "Plan: 0 to change, 2 unchanged, 0 unreachable.  Nothing was changed.",
    ]


def test_a_build_asks_no_host_and_says_so() -> None:
    hosts = [HostPlan(name, State.PLANNED) for name in ("web01", "web02")]
    assert plan_text(view(*hosts, reaches_hosts=False)).splitlines()[1:] == [
        "hosts      'web*' matches 2 (group web)   not asked",
        "",
        "realise    nothing to build; no host is changed",
    ]


def test_copies_of_unequal_size_are_summed() -> None:
    hosts = [changing(name, change(NGINX)) for name in ("web01", "web02")]
    text = plan_text(view(*hosts, copy_bytes={"web01": MIB, "web02": 3 * MIB}))
    assert "copy       4.0 MiB to 2 hosts, at most 3.0 MiB to one; free on /nix: 4.0 GiB at least" in text


def test_sizes_that_only_a_build_can_tell_are_not_made_up() -> None:
    assert "copy       how much is known once it is built" in plan_text(view(changing("web01", change(NGINX))))
    fetched = plan_text(view(changing("web01", change(NGINX)), fetches=Fetches(3, MIB)))
    assert "copy       how much is known once it is fetched" in fetched


def test_the_difference_shows_the_store_paths_of_each_profile() -> None:
    plan = Plan((changing("web01", change(NGINX)), unchanged("web02")))
    assert diff_text(plan) == (
        f"web01   system   - 40 {values.path('system')}\n                 + 41 {values.path('system', 'b')}"
    )


PLACES = {
    (("controller",),): "realise    2 builds here (a-1, b-2)",
    (("target",),): "realise    2 builds on each host (a-1, b-2)",
    (("build01",),): "realise    2 builds on build01 (a-1, b-2)",
    (("build01", "build02"),): "realise    2 builds on build01 or build02 (a-1, b-2)",
    (("build01",), ("controller",)): "realise    2 builds on build01 (a-1, b-2), 2 builds here (a-1, b-2)",
    (): "realise    nothing to build",
}


@pytest.mark.parametrize("places", PLACES)
def test_where_packages_are_built_is_said(places: tuple[tuple[str, ...], ...]) -> None:
    sites = tuple(Site(who, ("a-1", "b-2")) for who in places)
    assert PLACES[places] in plan_text(view(changing("web01"), sites=sites))
    told = [{"places": list(who), "builds": ["a-1", "b-2"]} for who in places]
    assert plan_json(view(changing("web01"), sites=sites))["sites"] == told


def test_the_json_of_a_plan_has_its_documented_keys() -> None:
    document = plan_json(view(changing("web01", change(NGINX)), absent("web02"), copy_bytes={"web01": 5}))
    keys = "format inventory revision pattern status builds build_on sites fetches hosts"
    assert list(document) == keys.split()
    assert document["build_on"] == ["controller"]
    assert document["status"] == 5
    assert document["hosts"][0] == {
        "host": "web01",
        "state": "planned",
        "first": False,
        "adopts": [],
        "changes": [
            {
                "profile": "system",
                "before": {"number": 40, "path": values.path("system")},
                "after": {"number": 41, "path": values.path("system", "b")},
                "left_inventory": False,
                "packages": [{"name": "nginx", "change": "~", "before": "1.24.0", "after": "1.26.1"}],
            }
        ],
        "problems": {},
        "error": "",
        "hint": "",
        "brings_back": [],
        "copy_bytes": 5,
    }
    assert document["hosts"][1]["error"] == "ssh: connection timed out after 10 s"
