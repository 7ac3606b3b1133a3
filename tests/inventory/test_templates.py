"""Templates in values: what they see, what they become, and where their faults are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.inventory.trees import errors_of, faults_of, read


def test_names_of_users_and_packages_may_be_templates(tmp_path: Path) -> None:
    inventory = read(
        tmp_path,
        """
        laptops:
          hosts:
            lt-alice.example: {owner: alice}
            lt-bob.example: {owner: bob, editor: vim@9.10}
          vars:
            editor: neovim
            desired:
              packages: ["{{ inventory_hostname_short }}"]
              users:
                "{{ owner }}": {packages: ["{{ editor }}"]}
        """,
    )
    held = [inventory.desired(host) for host in inventory.hosts]
    assert [{user: list(spec.packages) for user, spec in state.users.items()} for state in held] == [
        {"alice": ["neovim"]},
        {"bob": ["vim"]},
    ]
    assert [list(state.system.packages) for state in held if state.system] == [["lt-alice"], ["lt-bob"]]


def test_a_list_of_packages_may_be_one_template(tmp_path: Path) -> None:
    inventory = read(
        tmp_path,
        """
        all:
          hosts: {a: }
          vars:
            base: [jq, "{{ extra }}", {gcc@13: {priority: 4}}]
            extra: htop
            desired: {packages: "{{ base + (['nginx'] if 'web' in group_names else []) }}"}
          children: {web: {hosts: {b: }}}
        """,
    )
    states = [inventory.desired(host).system for host in ("a", "b")]
    assert [sorted(state.packages) for state in states if state] == [
        ["gcc", "htop", "jq"],
        ["gcc", "htop", "jq", "nginx"],
    ]
    assert states[0] is not None
    assert states[0].packages["gcc"].priority == 4


def test_a_version_keeps_its_spelling_through_a_variable(tmp_path: Path) -> None:
    inventory = read(tmp_path, "all: {hosts: {a: {v: 1.10, desired: {packages: ['nginx@{{ v }}']}}}}")
    system = inventory.desired("a").system
    assert system is not None
    assert system.packages["nginx"].reference == "nginx@1.10"


def test_the_variables_that_ansible_adds_are_there(tmp_path: Path) -> None:
    inventory = read(
        tmp_path,
        """
        web:
          hosts: {a.example: {ansible_user: "{{ groups['db'][0] }}-{{ hostvars[groups['db'][0]].role }}"}}
          vars: {ansible_host: "{{ inventory_hostname_short }}.{{ group_names | join('-') }}"}
        db: {hosts: {b: {role: "{{ inventory_hostname }}-main"}}}
        """,
    )
    settings = inventory.connection("a.example")
    assert (settings.address, settings.user) == ("a.web", "b-b-main")


FAULTS = {
    "{{ ownr }}": ("'ownr' is undefined (on h)", "did you mean 'owner'?"),
    "{{ owner.name }}": ("'str object' has no attribute 'name' (on h)", None),
    "{{ owner": ("not a template: unexpected end of template, expected 'end of print statement'. (on h)", None),
    "{{ owner | to_nice_yaml }}": ("not a template: No filter named 'to_nice_yaml'. (on h)", None),
    "{{ 1 / 0 }}": ("the template fails: ZeroDivisionError: division by zero (on h)", None),
    "{{ owner.__class__.__mro__ }}": (
        "the template fails: SecurityError: access to attribute '__class__' of 'str' object is unsafe. (on h)",
        None,
    ),
    "{{ circle }}": ("the variable 'circle' refers to itself: circle -> round -> circle (on h)", None),
    "{{ blank }}": (
        "'' is no package (on h)",
        "a package is name, name@version, set:name or a /nix/store/... path",
    ),
}


@pytest.mark.parametrize("template", FAULTS)
def test_a_template_that_cannot_be_rendered_is_a_fault_of_its_host(template: str, tmp_path: Path) -> None:
    (error,) = errors_of(
        tmp_path,
        f"""
        all:
          vars: {{owner: alice, circle: "{{{{ round }}}}", round: "{{{{ circle }}}}", blank: ""}}
          hosts: {{h: {{desired: {{packages: ["{template}"]}}}}}}
        """,
    )
    assert (error.text, error.hint) == FAULTS[template]


def test_a_fault_within_a_variable_is_told_where_the_variable_is(tmp_path: Path) -> None:
    hosts = "all: {hosts: {h: {desired: {packages: ['{{ a }}']}}}}"
    (message,) = faults_of(tmp_path, hosts, group_vars__all="a: '{{ b }}'")
    assert message == "group_vars/all.yml:1:4: 'b' is undefined (on h)"


def test_one_fault_of_many_hosts_names_them(tmp_path: Path) -> None:
    (message,) = faults_of(tmp_path, "all: {hosts: {a: , b: }, vars: {desired: {packages: ['{{ x }}']}}}")
    assert message == "hosts.yml:1:54: 'x' is undefined (on a, b)"


def test_what_a_template_renders_to_is_not_a_template(tmp_path: Path) -> None:
    (message,) = faults_of(
        tmp_path, """all: {hosts: {h: {raw: !unsafe '{{ x }}', desired: {packages: ["{{ raw }}"]}}}}"""
    )
    assert message == "hosts.yml:1:64: '{{ x }}' is no package (on h)"


def test_variables_that_nothing_uses_may_hold_anything(tmp_path: Path) -> None:
    inventory = read(tmp_path, "all: {hosts: {h: {a: \"{{ lookup('pipe', 'id') }}\", b: '{{ nope'}}}")
    assert inventory.variables("h")["b"] == "{{ nope"


def test_one_template_serves_every_host_with_its_own_values(tmp_path: Path) -> None:
    inventory = read(tmp_path, "all: {hosts: {'h[1:3]': }, vars: {ansible_host: '{{ inventory_hostname }}.example'}}")
    assert [inventory.connection(host).address for host in inventory.hosts] == [
        "h1.example",
        "h2.example",
        "h3.example",
    ]
