from __future__ import annotations

from reconciler.cli.render.status import doctor_json, doctor_text, status_json, status_text
from reconciler.core.errors import ExitStatus
from reconciler.fleet.doctor import Fitness
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import HostPlan
from reconciler.fleet.status import Finding, HostStatus, StatusReport, Word
from tests.cli.values import NGINX, NOW, absent, change, changing, entry, observation, state

LAST = entry("260312-1412-k7", NOW - 2880)
UNDONE = entry("260312-1435-k8", NOW - 1500, kind="rollback", undoes="260312-1412-k7", message="shop 502s")


def fine(host: str) -> HostStatus:
    profiles = (state("system", 41, LAST), state("user/deploy", 7, LAST))
    return HostStatus(host, Word.OK, HostPlan(host, State.UNCHANGED, observation(*profiles)))


def fleet() -> StatusReport:
    behind = HostPlan("web02", State.PLANNED, observation(state("system", 40, UNDONE)), (change(NGINX),))
    drift = HostPlan("db01", State.PLANNED, observation(state("system", 17, LAST), state("user/deploy", 3, LAST)))
    finding = Finding(
        "profile", "deploy is 3, changed from outside (by nix-env, say); we left 4", "deploy --hosts db01"
    )
    return StatusReport(
        (
            fine("web01"),
            HostStatus("web02", Word.BEHIND, behind),
            HostStatus("db01", Word.DRIFT, drift, (finding,)),
            HostStatus("new01", Word.NEW, changing("new01", change(NGINX, before=None, will_be=1), managed=False)),
            HostStatus("ops01", Word.UNREACHABLE, absent("ops01")),
        ),
        2.1,
    )


def test_the_status_stands_side_by_side_with_findings_below() -> None:
    assert status_text(fleet(), "inventories/shop", "git 9bc1f04, clean", NOW, exit_code=False) == (
        """\
inventory  inventories/shop   git 9bc1f04, clean   5 hosts probed in 2.1 s

host    state         system          users      since
web01   ok            41              deploy 7   today 14:12  k7
web02   behind        40, wants 41    -          rolled back today 14:35 k8, undid k7: 'shop 502s'
db01    DRIFT         17              deploy 3   1 finding below
new01   new           none, wants 1   -          not managed yet
ops01   UNREACHABLE   -               -          ssh: connection timed out after 10 s

db01   profile   deploy is 3, changed from outside (by nix-env, say); we left 4   deploy --hosts db01

1 ok, 1 behind, 1 drift, 1 new, 1 unreachable.      verified: profiles, and that each closure is registered on its host
exit status 5 with --exit-code"""
    )


def test_with_exit_code_the_status_says_what_it_ends_with() -> None:
    text = status_text(fleet(), "i", "", NOW, exit_code=True)
    assert text.splitlines()[-1] == "exit status 5 (unreachable)"
    assert text.splitlines()[0] == "inventory  i   5 hosts probed in 2.1 s"


def test_where_all_is_well_there_is_no_word_of_exit_statuses() -> None:
    text = status_text(StatusReport((fine("web01"),), 0.2), "i", "", NOW, exit_code=True)
    assert text.splitlines()[-1].startswith("1 ok.      verified")


def test_the_json_of_a_status_has_its_documented_keys() -> None:
    document = status_json(fleet(), "inventories/shop", "")
    assert list(document) == ["format", "inventory", "revision", "status", "hosts"]
    assert list(document["hosts"][0]) == ["host", "state", "error", "running", "profiles", "findings"]
    assert [host["state"] for host in document["hosts"]] == ["ok", "behind", "drift", "new", "unreachable"]
    profile = document["hosts"][0]["profiles"][1]
    assert list(profile) == ["profile", "link", "current", "wants", "complete", "last", "problem"]
    assert profile["current"]["number"] == 7


def test_the_doctor_names_what_is_wrong_beside_what_to_do() -> None:
    hosts = [
        Fitness("new01", "Debian 12, Python 3.11.2, root by sudo, /nix 11 GiB free, systemd 252"),
        Fitness(
            "new03", problem="Python 3.6 (RHEL 8): needs 3.9", remedy="dnf install python39", status=ExitStatus.FAILED
        ),
        Fitness("new04", problem="sudo asks for a password", remedy="add -K", status=ExitStatus.FAILED),
    ]
    assert doctor_text(hosts) == (
        """\
new01   ready     Debian 12, Python 3.11.2, root by sudo, /nix 11 GiB free, systemd 252
new03   NOT FIT   Python 3.6 (RHEL 8): needs 3.9   dnf install python39
new04   NOT FIT   sudo asks for a password         add -K
1 ready, 2 not fit. Nothing was changed."""
    )
    assert doctor_json(hosts)["hosts"][2] == {
        "host": "new04", "ready": False, "facts": "", "problem": "sudo asks for a password", "remedy": "add -K",
        "brought": "",
    }  # fmt: skip
    path = f"/nix/store/{'0' * 32}-python3-3.12.8"
    brought = [Fitness("new01", facts="Debian 12", brought=path), Fitness("new02", facts="Debian 12")]
    assert doctor_text(brought).endswith("2 ready, 0 not fit. python3-3.12.8 was brought to 1 host.")
