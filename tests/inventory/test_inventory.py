"""An inventory as a whole: what is read, what is refused, and that all of it is told at once."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from reconciler.core.errors import ExitStatus, Faults
from reconciler.inventory.inventory import load
from tests.inventory.trees import errors_of, faults_of, read, write

DEMO = Path(__file__).parents[2] / "inventories" / "demo"

UNKNOWN = {
    "all: {hosts: {web02: {desired: {packges: [a]}}}}": (
        "hosts.yml:1:33: unknown key 'packges' in desired of host web02; did you mean 'packages'?"
    ),
    "all: {hosts: {a: }, vars: {desired: {sysctl: {}}}}": (
        "hosts.yml:1:38: unknown key 'sysctl' in desired of group all; did you mean 'system'?"
    ),
    "all: {hosts: {a: {desired: {users: {bob: {pakages: []}}}}}}": (
        "hosts.yml:1:43: unknown key 'pakages' in desired.users.bob of host a; did you mean 'packages'?"
    ),
    "all: {hosts: {a: {desired: {drop: {package: []}}}}}": (
        "hosts.yml:1:36: unknown key 'package' in desired.drop of host a; did you mean 'packages'?"
    ),
    "all: {hosts: {a: {desired: {packages: [x: {prio: 1}]}}}}": (
        "hosts.yml:1:44: unknown option 'prio' of package 'x'"
    ),
    "all: {hsots: {a: }}": "hosts.yml:1:7: unknown key 'hsots' in group all; did you mean 'hosts'?",
    "hosts: {a: }": "hosts.yml:1:1: 'hosts' stands where a group is wanted",
    "all: {hosts: [a]}": "hosts.yml:1:14: hosts of group all is not a mapping",
    "all: {hosts: {10: }}": "hosts.yml:1:15: the host name 10 is not text to YAML",
    "all: {hosts: {-oProxyCommand=id: }}": "hosts.yml:1:15: '-oProxyCommand=id' cannot name a host",
    "all: {hosts: {$(id): }}": "hosts.yml:1:15: '$(id)' cannot name a host",
    'all: {hosts: {"a\\nb": }}': "hosts.yml:1:15: 'a\\nb' cannot name a host",
    "all: {children: {a/b: }}": "hosts.yml:1:18: 'a/b' cannot name a group",
    "a: {children: {b: {children: {c: {children: {a: }}}}}}": (
        "hosts.yml:1:46: group 'a' is inside itself: a -> b -> c -> a"
    ),
    "a: {children: {a: }}": "hosts.yml:1:16: group 'a' is inside itself: a -> a",
    "a: {children: {all: }}": "hosts.yml:1:16: 'all' holds every group and is in none: not in 'a' either",
    "a: {vars: {ansible_group_priority: x}}": "hosts.yml:1:36: ansible_group_priority is not a whole number",
    "all: {hosts: {a: {desired: {packages: jq}}}}": "hosts.yml:1:39: packages is not a list",
    "all: {hosts: {a: {desired: [jq]}}}": "hosts.yml:1:28: desired of host a is not a mapping",
    "all: {hosts: {a: {desired: {packages: [a b]}}}}": "hosts.yml:1:40: 'a b' is no package",
    "all: {hosts: {a: {desired: {packages: [-x]}}}}": "hosts.yml:1:40: '-x' is no package",
    "all: {hosts: {a: {desired: {packages: [x@]}}}}": "hosts.yml:1:40: 'x@' is no package",
    "all: {hosts: {a: {desired: {packages: [x: {priority: 1.5}]}}}}": (
        "hosts.yml:1:54: priority '1.5' is not a whole number"
    ),
    "all: {hosts: {a: {desired: {system: x86-linux}}}}": "hosts.yml:1:37: 'x86-linux' is not a system",
    "all: {hosts: {a: {desired: {users: {../x: {}}}}}}": "hosts.yml:1:37: '../x' cannot name a user",
    "all: {hosts: {a: {desired: {profiles: {/opt/../tools: {}}}}}}": (
        "hosts.yml:1:40: '/opt/../tools' cannot name a profile: the path is not normalised"
    ),
    "all: {hosts: {a: {desired: {profiles: {/nix/store/tools: {}}}}}}": (
        "hosts.yml:1:40: '/nix/store/tools' cannot name a profile: no profile of one's own can stand there"
    ),
    "all: {hosts: {a: {protected: perhaps}}}": "hosts.yml:1:30: protected is neither yes nor no: 'perhaps' (on a)",
    "plugin: amazon.aws.aws_ec2": "hosts.yml:1:1: this is not an inventory but the configuration of a plugin",
    "[web]\nweb01 ansible_host=10.0.0.1\n": "hosts.yml:1:1: this is an INI or TOML inventory",
    "web01 ansible_host=10.0.0.1\n": "hosts.yml:1:1: this is not an inventory: a mapping of groups is wanted",
    "all: {hosts: {a: {desired: {packages: ['{{ nope }}']}}}}": "hosts.yml:1:40: 'nope' is undefined (on a)",
}


@pytest.mark.parametrize("hosts", UNKNOWN)
def test_what_is_wrong_is_told_with_its_place_and_the_nearest_right_spelling(hosts: str, tmp_path: Path) -> None:
    (message,) = faults_of(tmp_path, hosts)
    assert message == UNKNOWN[hosts]


def test_all_faults_are_told_at_once_in_the_order_of_the_files(tmp_path: Path) -> None:
    hosts = """
        all:
          hosts:
            web01: {ansible_port: ssh, desired: {packges: [a], packages: [b c]}}
            $(id):
          children:
            web: {hosts: {web01: }}
        """
    messages = faults_of(tmp_path, hosts, group_vars__web="a: [\n", host_vars__web01="desired: {drop: {packages: [x]}}")
    assert messages == [
        "group_vars/web.yml:2:1: not YAML: while parsing a flow node: did not find expected node content",
        "host_vars/web01.yml:1:29: nothing to drop: no package 'x' comes from farther away (on web01)",
        "hosts.yml:4:27: ansible_port: 'ssh' is not a port (on web01)",
        "hosts.yml:4:42: unknown key 'packges' in desired of host web01; did you mean 'packages'?",
        "hosts.yml:4:67: 'b c' is no package",
        "hosts.yml:5:5: '$(id)' cannot name a host",
    ]


def test_faults_end_a_command_as_something_typed_wrong(tmp_path: Path) -> None:
    with pytest.raises(Faults) as raised:
        read(tmp_path, "all: {hosts: {$(id): }}")
    assert raised.value.status is ExitStatus.USAGE


def test_a_fault_of_a_range_of_hosts_is_one_fault(tmp_path: Path) -> None:
    (message,) = faults_of(tmp_path, "all: {hosts: {'web[01:50]': {desired: {packges: [a]}}}}")
    assert message.startswith("hosts.yml:1:40: unknown key 'packges' in desired of host web[01:50]; ")


def test_an_ini_inventory_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, "# hosts\n[web]\nweb01\n")
    assert error.hint == "convert it: ansible-inventory -i hosts.yml --list --yaml --export --output hosts.yml"


@pytest.mark.parametrize(
    ("said", "meant"), [("arm64-linux", "aarch64-linux"), ("amd64", "x86_64-linux"), ("x86-linux", "x86_64-linux")]
)
def test_a_system_in_somebody_elses_words_is_answered_with_nixs(tmp_path: Path, said: str, meant: str) -> None:
    (error,) = errors_of(tmp_path, f"all: {{hosts: {{a: {{desired: {{system: {said}}}}}}}}}")
    assert error.hint == f"did you mean '{meant}'?"


def test_variables_of_ansible_are_free_and_their_surprises_are_ansibles(tmp_path: Path) -> None:
    inventory = read(tmp_path, "all: {hosts: {a: {on: yes, mode: 0644, v: 1.10, files: {x: 1}, packges: [a]}}}")
    assert inventory.variables("a") == {"on": True, "mode": 420, "v": 1.1, "files": {"x": 1}, "packges": ["a"]}


def test_a_folder_is_read_file_by_file_and_only_its_own_variables_count(tmp_path: Path) -> None:
    write(
        tmp_path / "inv",
        {
            "02-more.yaml": "web: {hosts: {web02: }}",
            "01-hosts.yml": "web: {hosts: {web01: }, vars: {desired: {packages: [a]}}}",
            "group_vars/web.yml": "desired: {packages: [b]}",
            "packages/recipe.yml": "version: 1",
            "reconciler.lock": "{",
            "notes.md": "[",
            "story.sh": "exit 1",
            ".hidden.yml": "[",
            "backup.yml~": "[",
        },
    )
    inventory = load(tmp_path / "inv")
    assert list(inventory.hosts) == ["web01", "web02"]
    system = inventory.desired("web02").system
    assert system is not None
    assert sorted(system.packages) == ["a", "b"]
    assert inventory.directory == tmp_path / "inv"
    assert load(tmp_path / "inv" / "01-hosts.yml").directory == tmp_path / "inv"


def test_a_folder_without_hosts_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(Faults, match="a folder without a file of hosts"):
        load(tmp_path)


def test_messages_name_files_as_they_were_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"inv/hosts.yml": "all: {hosts: {a: }}", "inv/group_vars/all.yml": "desired: {x: 1}"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Faults, match=r"^inv/group_vars/all\.yml:1:11: unknown key"):
        load(Path("inv"))
    monkeypatch.chdir(tmp_path / "inv")
    with pytest.raises(Faults, match=r"^group_vars/all\.yml:1:11: unknown key"):
        load(Path("hosts.yml"))


LISTED = """\
{"_meta": {"hostvars": {"i-1": {"ansible_host": "192.0.2.1", "desired": {"packages": ["jq"]},
                               "secret": {"__ansible_vault": "x"}, "raw": {"__ansible_unsafe": "{{ x }}"}}}},
 "all": {"children": ["ungrouped", "web"]}, "web": {"hosts": ["i-1", "i-2"], "vars": {"role": "web"}}}
"""


def test_what_ansible_inventory_prints_is_an_inventory(tmp_path: Path) -> None:
    write(tmp_path, {"hosts.json": LISTED, "group_vars/web.yml": "desired: {packages: [nginx]}"})
    inventory = load(tmp_path / "hosts.json")
    assert inventory.select("web") == ["i-1", "i-2"]
    assert inventory.connection("i-1").address == "192.0.2.1"
    assert inventory.variables("i-1")["raw"] == "{{ x }}"
    system = inventory.desired("i-1").system
    assert system is not None
    assert sorted(system.packages) == ["jq", "nginx"]
    assert str(system.packages["jq"].origin.position) == f"{tmp_path}/hosts.json:1:87"


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_program_is_asked_for_its_hosts(tmp_path: Path) -> None:
    write(tmp_path, {"list.json": LISTED})
    inventory = load(script(tmp_path / "cloud.sh", f"test $1 = --list && cat {tmp_path}/list.json"))
    assert list(inventory.hosts) == ["i-1", "i-2"]


def test_a_program_without_hostvars_is_asked_for_each_host(tmp_path: Path) -> None:
    body = """case $1 in --list) echo '{"web": ["a", "b"]}';; --host) echo "{\\"n\\": \\"$2\\"}";; esac"""
    inventory = load(script(tmp_path / "hosts", body))
    assert [inventory.variables(host) for host in inventory.hosts] == [{"n": "a"}, {"n": "b"}]


def test_a_program_that_fails_is_a_fault_with_the_end_of_what_it_said(tmp_path: Path) -> None:
    path = script(tmp_path / "cloud", "echo no credentials >&2; exit 3")
    with pytest.raises(Faults) as raised:
        load(path)
    (error,) = raised.value.errors
    assert (error.message, error.hint) == (f"{path}: --list ended with status 3", "no credentials")


def test_a_program_that_prints_something_else_is_a_fault_with_its_place(tmp_path: Path) -> None:
    path = script(tmp_path / "cloud", "echo '{\"a\": }'")
    with pytest.raises(Faults, match=r"output of .*/cloud --list:1:7: not JSON: a value is wanted here"):
        load(path)


def test_a_file_that_is_passed_over_because_of_another_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path, {"group_vars/web.yaml": "b: 1", "host_vars/a/x.yml": "", "host_vars/a.yml": ""})
    messages = faults_of(tmp_path, "web: {hosts: {a: }}", group_vars__web="a: 1")
    assert messages == [
        "group_vars/web.yaml: not read, because group_vars/web.yml exists",
        "host_vars/a.yml: not read, because host_vars/a exists",
    ]


def test_what_is_desired_of_a_group_that_does_not_exist_is_a_fault(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, "web: {hosts: {a: }}", group_vars__wbe="desired: {}", group_vars__free="x: 1")
    assert error.message == "group_vars/wbe.yml:1:1: 'desired' of a group that the inventory does not have: 'wbe'"
    assert error.hint == "did you mean 'web'?"


def test_a_priority_in_group_vars_is_a_fault_since_ansible_does_not_read_it(tmp_path: Path) -> None:
    (message,) = faults_of(tmp_path, "web: {hosts: {a: }}", group_vars__web="ansible_group_priority: 2")
    assert message == "group_vars/web.yml:1:1: ansible_group_priority has no effect here"


def test_an_encrypted_file_is_passed_over_and_named_where_its_variables_are_missed(tmp_path: Path) -> None:
    vault = "$ANSIBLE_VAULT;1.1;AES256\n6162\n"
    hosts = "all: {hosts: {a: {desired: {packages: ['{{ hidden_name }}']}}}}"
    (error,) = errors_of(tmp_path, hosts, group_vars__all__vault=vault)
    assert error.hint == "group_vars/all/vault.yml: encrypted with ansible-vault, not read"
    assert list(read(tmp_path, "all: {hosts: {a: }}", group_vars__all__vault=vault).hosts) == ["a"]


def test_an_encrypted_value_is_a_fault_only_where_it_is_needed(tmp_path: Path) -> None:
    hosts = "all: {hosts: {a: {secret: !vault x, desired: {packages: [jq]}}}}"
    assert list(read(tmp_path / "a", hosts).hosts) == ["a"]
    (message,) = faults_of(tmp_path / "b", "all: {hosts: {a: {ansible_user: !vault x}}}")
    assert message == "hosts.yml:1:33: this value is encrypted with ansible-vault, which is not read here (on a)"


def test_protected_hosts_are_known(tmp_path: Path) -> None:
    inventory = read(tmp_path, "all: {children: {db: {hosts: {a: , b: {protected: no}}, vars: {protected: yes}}}}")
    assert [inventory.protected(host) for host in ("a", "b")] == [True, False]


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_revision_says_whether_the_folder_is_as_committed(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    write(tmp_path, {"inv/hosts.yml": "all: {hosts: {a: }}", "other": "x"})
    assert load(tmp_path / "inv").git() is None
    git("init")
    assert load(tmp_path / "inv").revision == ""
    git("add", ".")
    git("commit", "-m", "nginx 1.26\n\nmore")
    (tmp_path / "other").write_text("changed", encoding="utf-8")
    revision = load(tmp_path / "inv").git()
    assert revision is not None
    assert (revision.subject, revision.clean, len(revision.short)) == ("nginx 1.26", True, 7)
    (tmp_path / "inv" / "new.yml").write_text("", encoding="utf-8")
    assert load(tmp_path / "inv").revision == f"{revision.commit}-dirty"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_folder_that_the_repository_does_not_keep_has_no_revision(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "copy/\n", "copy/hosts.yml": "all: {hosts: {a: }}\n"})
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for arguments in (("init",), ("add", ".gitignore"), ("commit", "-m", "first")):
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)
    assert load(tmp_path / "copy").git() is None


def test_without_git_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read(tmp_path, "all: {hosts: {a: }}").git() is None


def test_the_demo_is_an_inventory_of_four_hosts_and_two_users() -> None:
    inventory = load(DEMO)
    assert inventory.select("all") == ["web01", "web02", "web03", "db01"]
    held = inventory.desired("db01")
    assert held.system is not None
    assert sorted(held.system.packages) == ["hostcard", "ledger"]
    assert sorted(held.users) == ["alice", "bob"]
    assert inventory.connection("web01").common_args == ("-F", f"{DEMO}/.lab/ssh_config")


def test_three_thousand_hosts_load_in_under_three_seconds(tmp_path: Path) -> None:
    even = "".join(f"        h{n:04}: {{ansible_host: 10.0.{n // 256}.{n % 256}}}\n" for n in range(2, 3001, 2))
    hosts = (
        "all:\n  vars:\n    ansible_user: '{{ who }}'\n    who: ops\n    desired: {packages: [htop, jq@1.7]}\n"
        "  children:\n    odd:\n      hosts: {'h[0001:2999:2]': }\n      vars: {desired: {packages: [jq@1.8]}}\n"
        f"    even:\n      hosts:\n{even}"
    )
    write(tmp_path, {"hosts.yml": hosts})
    begun = time.monotonic()
    inventory = load(tmp_path / "hosts.yml")
    states = [inventory.desired(host) for host in inventory.hosts]
    assert time.monotonic() - begun < 3
    assert len(states) == 3000
    assert inventory.connection("h3000").user == "ops"
