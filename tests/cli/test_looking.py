"""init, inventory and why: the commands that talk to no host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reconciler.cli.main import run
from reconciler.cli.render.why import Reason, why_text
from reconciler.core.profile.names import ProfileId
from reconciler.inventory.desired import Origin, Position

HOSTS = """\
all:
  vars:
    ansible_user: deploy
    ansible_become: true
    desired:
      packages: [tree, greet@1]
      users:
        alice: {packages: [{greet: {priority: 4}}]}
  children:
    web:
      hosts:
        web01: {ansible_host: 10.0.0.1, ansible_port: 2222}
      vars:
        desired: {packages: [greet@2], drop: {packages: [tree]}}
    db:
      hosts: {db01: {ansible_connection: local, protected: true}}
"""
RECIPE = "toolchain: host\nbuild: mkdir $out\nversions: {1.0: , 2.0: }\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "inventories/shop").mkdir(parents=True)
    (tmp_path / "inventories/shop/hosts.yml").write_text(HOSTS)
    (tmp_path / "packages").mkdir()
    for name in ("greet", "tree"):
        (tmp_path / f"packages/{name}.yml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert run("reconciler", arguments) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.splitlines()


def test_the_inventory_is_groups_and_a_line_for_each_host(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "inventory") == [
        "inventory  inventories/shop   2 hosts",
        "",
        "group   hosts   of groups",
        "web     web01",
        "db      db01",
        "",
        "host    login                        system         users",
        "web01   deploy@10.0.0.1:2222, sudo   greet@2        alice (1)",
        "db01    local, sudo                  tree greet@1   alice (1)",
    ]


def test_one_host_is_told_with_the_place_of_every_package(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "inventory", "--host", "db01") == [
        "host        db01",
        "groups      all db",
        "login       local, sudo",
        "system      x86_64-linux",
        "protected   every change is asked about",
        "",
        "system",
        "  tree      inventories/shop/hosts.yml:6   group all",
        "  greet@1   inventories/shop/hosts.yml:6   group all",
        "",
        "alice",
        "  greet   inventories/shop/hosts.yml:8   group all",
    ]


def test_the_json_has_the_shape_that_ansible_prints(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads("\n".join(told(capsys, "inventory", "--json")))
    assert document["all"] == {"children": ["ungrouped", "web", "db"]}
    assert document["web"] == {"hosts": ["web01"]}
    variables = document["_meta"]["hostvars"]["web01"]
    assert variables["ansible_port"] == 2222
    assert variables["desired"] == {
        "system": "x86_64-linux",
        "packages": ["greet@2"],
        "users": {"alice": {"packages": [{"greet": {"priority": 4}}]}},
    }
    assert json.loads("\n".join(told(capsys, "inventory", "--host", "web01", "--json"))) == variables


def test_why_names_the_line_and_what_it_replaced(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, "why", "web01", "greet@2")
    assert lines[0].startswith("greet 2.0   /nix/store/")
    assert lines[0].endswith("…-greet-2.0    in packages, on PATH")
    assert lines[1:3] == [
        "  from     inventories/shop/hosts.yml:14    greet@2    group web",
        "  replaces inventories/shop/hosts.yml:6     greet@1    group all",
    ]
    assert lines[4].endswith("in users.alice.packages, on alice's PATH")


def test_why_tells_what_dropped_an_entry(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "why", "web01", "tree") == [
        "tree   dropped   in packages",
        "  from     inventories/shop/hosts.yml:6     tree    group all",
        "  dropped  inventories/shop/hosts.yml:14    tree    group web",
    ]


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["why", "web02", "greet"], "the inventory has no host 'web02'", "did you mean 'web01'?"),
        (["why", "web01", "gret"], "nothing declares 'gret' for web01", "did you mean 'greet'?"),
        (["why", "web01", "zsh"], "nothing declares 'zsh' for web01", "reconciler inventory --host web01"),
        (["inventory", "--host", "db1"], "the inventory has no host 'db1'", "did you mean 'db01'?"),
        (["lab", "up", "web9"], "the inventory has no host 'web9'", "did you mean 'web01'?"),
        (["trust", "db01"], "db01 is this machine: it has no host key", "leave it out"),
        (["plan", "--users", "alicia,bob"], "--users 'alicia' matches no user of these hosts", "did you mean 'alice'?"),
        (["status", "--users", "zed"], "--users 'zed' matches no user of these hosts", "there are: alice"),
        (["plan", "--users", ""], "--users is empty", "leave it out for all of them"),
    ],
)
def test_a_name_that_is_not_there_is_told_with_the_nearest(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str, hint: str
) -> None:
    assert run("reconciler", arguments) == 2
    assert capsys.readouterr().err == f"error: {error}\nhint:  {hint}\n"


@pytest.mark.parametrize("command", ["plan", "deploy", "status", "doctor", "generations", "history", "rollback"])
@pytest.mark.parametrize("option", ["--hosts", "--limit"])
def test_an_empty_pattern_is_never_every_host(
    project: Path, capsys: pytest.CaptureFixture[str], command: str, option: str
) -> None:
    others = ["--hosts", "all"] if option == "--limit" else []
    assert run("reconciler", [command, option, "", *others]) == 2
    assert capsys.readouterr().err == "error: the pattern is empty\nhint:  --hosts all means every host\n"


def test_an_entry_that_replaced_several_names_each_once_nearest_first() -> None:
    far = Origin(Position("all.yml", 3, 5), "group all", "orders@5.0")
    middle = Origin(Position("app.yml", 3, 5), "group app", "orders@5.1", (far,))
    near = Origin(Position("canary.yml", 3, 5), "group app_canary", "orders@5.2", (middle, far))
    assert why_text(
        [Reason("orders", ProfileId.SYSTEM, near, "5.2.3", "/nix/store/7p3" + "0" * 29 + "-orders-5.2.3")]
    ).splitlines() == [
        "orders 5.2.3   /nix/store/7p3…-orders-5.2.3    in packages, on PATH",
        "  from     canary.yml:3    orders@5.2    group app_canary",
        "  replaces app.yml:3       orders@5.1    group app",
        "  replaces all.yml:3       orders@5.0    group all",
    ]


# --- init ----------------------------------------------------------------------------------------------------------


def test_a_project_for_hosts_of_ones_own_reads_without_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("reconciler", ["init", "-d", "fleet", "--inventory", "prod", "web01", "db01.example"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "next   cd fleet && reconciler plan, then: deploy --hosts all"
    monkeypatch.chdir(tmp_path / "fleet")
    lines = told(capsys, "inventory")
    assert lines[-2:] == ["web01          web01          greet    -", "db01.example   db01.example   greet    -"]
    assert told(capsys, "why", "web01", "greet")[0].startswith("greet 1.0   /nix/store/")


@pytest.mark.parametrize("present", ["reconciler.yml", "packages", "notes.txt"])
def test_nothing_is_ever_overwritten(tmp_path: Path, present: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / present).write_text("mine")
    assert run("reconciler", ["init", "-d", str(tmp_path)]) == 7
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: not empty ({present})\n")
    assert [path.name for path in tmp_path.iterdir()] == [present]


def test_a_repository_that_was_just_made_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / ".gitignore").write_text("mine\n")
    assert run("reconciler", ["init", "-d", str(tmp_path)]) == 0
    assert (tmp_path / ".gitignore").read_text() == "mine\n"


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "a b", "$(id)", "web[01:03]"])
def test_a_host_that_could_be_more_than_a_name_is_refused(
    tmp_path: Path, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("reconciler", ["init", "-d", str(tmp_path / "new"), "--", host]) == 2
    assert not (tmp_path / "new").exists()
    assert "cannot be a name here" in capsys.readouterr().err
