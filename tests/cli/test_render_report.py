from __future__ import annotations

from dataclasses import replace

from reconciler.cli.render.report import heading, report_text, result_words
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import PackageChange
from reconciler.fleet.report import HostReport, ProfileReport, Report
from tests.cli.values import FD, GEOIP, MAXMIND, NGINX, SHOP, ref

ID = "260312-1412-k7"


def switched(*packages: PackageChange, user: str = "", numbers: tuple[int, int] = (40, 41)) -> ProfileReport:
    before, after = ref(numbers[0]), ref(numbers[1], "b")
    return ProfileReport(ProfileId(user), before, after, after, packages)


def as_it_was(*packages: PackageChange, user: str = "") -> ProfileReport:
    return ProfileReport(ProfileId(user), ref(40), ref(41, "b"), ref(40), packages)


def at(number: int) -> ProfileReport:
    return ProfileReport(ProfileId.SYSTEM, ref(number), ref(number), ref(number))


def report(*hosts: HostReport, kind: str = "deploy", action: str = "switch", seconds: float = 112.0) -> Report:
    return Report(ID, kind, "deployer@ops01", "nginx 1.26", action, hosts, seconds)


def test_the_heading_names_id_who_and_message() -> None:
    assert (
        heading(ID, "deployer@ops01", "nginx 1.26, SHOP-412")
        == "260312-1412-k7   deployer@ops01   'nginx 1.26, SHOP-412'"
    )
    assert heading(ID, "deployer@ops01", "") == "260312-1412-k7   deployer@ops01"


def test_a_run_that_did_all_it_was_to_do_ends_with_how_to_undo_it() -> None:
    done = report(*(HostReport(name, State.CONFIRMED, (switched(NGINX),)) for name in ("web01", "web02")), seconds=4.21)
    assert report_text(done) == (
        """\
host    state       system     nginx
web01   confirmed   40 -> 41   1.26.1
web02   confirmed   40 -> 41   1.26.1

2 confirmed, 0 unreachable.  4.2 s.
next     reconciler rollback --deployment k7   put web01 web02 back"""
    )


LOG = "shop-2.8 could not be built: the builder failed with exit status 2\nthe last lines of its log:\n  main.c:7: no"


def test_hosts_that_one_thing_kept_back_are_told_together_and_as_they_are_called() -> None:
    hosts = [
        HostReport(name, State.FAILED, (as_it_was(NGINX),), LOG, "the whole log: bzcat /x")
        for name in ("web01", "web02")
    ]
    off = [HostReport(name, State.UNREACHABLE, (), f"{name}: ssh: no route") for name in ("web03", "web04")]
    lines = report_text(report(*hosts, *off)).splitlines()
    assert lines[:9] == [
        "web01 web02  FAILED before the switch: shop-2.8 could not be built: the builder failed with exit status 2",
        "       the last lines of its log:",
        "         main.c:7: no",
        "       each runs what it ran before: system 40",
        "       next  the whole log: bzcat /x",
        "",
        "web03 web04  UNREACHABLE: ssh: no route",
        "       they were not switched",
        "",
    ]
    assert any(line.startswith("web03   unreachable   -") and line.endswith(" ssh: no route") for line in lines)


def test_hosts_that_run_different_things_are_not_said_to_run_the_same() -> None:
    hosts = [
        HostReport(f"web0{number}", State.FAILED, (at(40 + number), as_it_was(FD, user="deploy")), "no room")
        for number in (1, 2)
    ]
    assert report_text(report(*hosts)).splitlines()[1] == "       each runs what it ran before"


def test_what_went_wrong_beside_the_hosts_is_noted() -> None:
    done = replace(report(HostReport("web01", State.CONFIRMED, (switched(NGINX),))), notes=("the journal is full",))
    assert "note     the journal is full" in report_text(done).splitlines()
    assert done.to_json()["notes"] == ["the journal is full"]


def test_how_the_bytes_came_is_told_where_hosts_fetched_by_themselves() -> None:
    host = HostReport("web01", State.CONFIRMED, (switched(NGINX),), sent=2048, fetched=3 * 2**20)
    text = report_text(report(host))
    assert "3.0 MiB came from caches straight to 1 host, 2.0 KiB from here." in text
    assert "straight" not in report_text(report(HostReport("web01", State.CONFIRMED, (switched(NGINX),), sent=2048)))


def test_a_trial_that_tried_nothing_says_nothing_of_reboots() -> None:
    assert "reboot" not in report_text(report(HostReport("web01", State.UNCHANGED, (at(41),)), action="test"))


def test_a_run_in_which_hosts_stayed_behind_says_why_and_what_they_run() -> None:
    text = report_text(
        report(
            HostReport("web01", State.CONFIRMED, (switched(NGINX),)),
            HostReport("web02", State.FAILED, (as_it_was(NGINX),), "6.3 MiB are to be copied, and 1.0 MiB are free",
                       "make room on the file system of /nix"),
            HostReport("web03", State.UNREACHABLE, (), "ssh: connection timed out after 10 s"),
            HostReport("web04", State.UNCHANGED, (at(41),)),
        ),
        "web*",
        {"web04": {"nginx": "1.26.1"}},
    )  # fmt: skip
    assert text == (
        """\
web02  FAILED before the switch: 6.3 MiB are to be copied, and 1.0 MiB are free
       runs what it ran before: system 40
       next  make room on the file system of /nix

web03  UNREACHABLE: ssh: connection timed out after 10 s
       it was not switched

host    state         system     nginx
web01   confirmed     40 -> 41   1.26.1
web02   failed        40         1.24.0   6.3 MiB are to be copied, and 1.0 MiB are free
web03   unreachable   -                   ssh: connection timed out after 10 s
web04   unchanged     41         1.26.1

1 confirmed, 1 failed, 1 unchanged, 1 unreachable.  1 min 52 s.  These hosts run two versions of nginx.
next     deploy --hosts 'web*'                 try web02 web03 again; the others need nothing
         reconciler rollback --deployment k7   put web01 back
exit status 3 (failed before the switch)"""
    )


def test_what_nobody_knows_is_said_to_be_unknown() -> None:
    unknown = HostReport(
        "web01", State.UNKNOWN, (as_it_was(NGINX),), "the link was lost during the switch", probed=False
    )
    lines = report_text(report(unknown), "web01").splitlines()
    assert lines[:2] == [
        "web01  UNKNOWN: the link was lost during the switch",
        "       what it runs now is not known until it is probed",
    ]
    assert "web01   unknown   40       ?       the link was lost during the switch" in lines
    assert "next     reconciler status --hosts web01   find out what they run" in lines
    assert lines[-1] == "exit status 6 (unknown)"


def test_what_was_only_activated_is_told_from_what_is_kept() -> None:
    tried = HostReport("web01", State.CONFIRMED, (as_it_was(NGINX),))
    assert report_text(report(tried, action="test", seconds=1), "web01").splitlines() == [
        "host    state       system",
        "web01   confirmed   40       nginx 1.24.0 -> 1.26.1",
        "",
        "1 confirmed, 0 unreachable.  1.0 s.",
        "activated only: the profile is as it was, and a reboot returns to it",
        "next     deploy --hosts web01   keep it",
    ]
    text = report_text(report(HostReport("web01", State.CONFIRMED, (switched(NGINX),)), action="boot"))
    assert "set only: it is activated at the next boot" in text.splitlines()


def test_many_changed_packages_are_told_in_words_instead_of_columns() -> None:
    done = HostReport("web01", State.CONFIRMED, (switched(FD, GEOIP, MAXMIND, NGINX, SHOP),))
    row = report_text(report(done)).splitlines()[1]
    assert row == "web01   confirmed   40 -> 41   + fd 10.2.0; - geoip; + libmaxminddb 1.9.1; 2 more"


def test_each_users_profile_has_a_column() -> None:
    done = HostReport("web01", State.CONFIRMED, (switched(NGINX), switched(FD, user="deploy", numbers=(6, 7))))
    assert report_text(report(done)).splitlines()[:2] == [
        "host    state       system     deploy   fd       nginx",
        "web01   confirmed   40 -> 41   6 -> 7   10.2.0   1.26.1",
    ]


def test_profiles_that_were_not_to_change_have_no_column() -> None:
    still = ProfileReport(ProfileId("alice"), ref(3), ref(3), ref(3))
    hosts = (
        HostReport("web01", State.CONFIRMED, (switched(NGINX),)),
        HostReport("web02", State.UNCHANGED, (at(41), still)),
    )
    assert report_text(report(*hosts)).splitlines()[0] == "host    state       system     nginx"


def test_a_host_that_switched_without_one_of_its_profiles_says_so() -> None:
    part = HostReport("web01", State.CONFIRMED, (switched(NGINX),), "alice: there is no such account", partial=True)
    lines = report_text(report(part), "web01").splitlines()
    assert lines[1] == "web01   confirmed   40 -> 41   1.26.1   left out: alice: there is no such account"
    assert lines[-1] == "exit status 3 (failed before the switch)"


def test_a_run_that_had_nothing_to_do_is_one_line() -> None:
    text = report_text(report(HostReport("web01", State.UNCHANGED, (at(41),)), seconds=0.42))
    assert text == "1 unchanged, 0 unreachable.  0.4 s."


def test_a_rollback_offers_no_rollback_of_itself() -> None:
    assert "next" not in report_text(report(HostReport("web01", State.CONFIRMED, (switched(NGINX),)), kind="rollback"))


def test_a_stage_leaves_hosts_as_they_were_and_offers_nothing_to_undo() -> None:
    staged = HostReport("web01", State.STAGED, (as_it_was(NGINX),))
    assert report_text(report(staged, action="stage")).splitlines() == [
        "host    state    system   nginx",
        "web01   staged   40       1.24.0",
        "",
        "1 staged, 0 unreachable.  1 min 52 s.",
    ]


def test_a_result_counts_states_and_names_the_few_that_went_wrong() -> None:
    hosts = [
        HostReport("web01", State.CONFIRMED),
        HostReport("web02", State.UNREACHABLE),
        HostReport("web03", State.UNCHANGED),
    ]
    assert result_words(hosts) == "1 confirmed 1 unchanged 1 unreachable: web02"
