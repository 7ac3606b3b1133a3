"""The merge rule: by name, from far to near, and an error where two places are equally near."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.profile.names import ProfileId
from reconciler.inventory.desired import ProfileSpec
from reconciler.inventory.faults import FaultLog
from reconciler.inventory.inventory import Inventory
from reconciler.inventory.merge import Merged, merge
from reconciler.inventory.resolved import resolve_fixed
from reconciler.inventory.schema import parse_block
from reconciler.inventory.yaml import parse
from tests.inventory.trees import errors_of, faults_of, read


def references(spec: ProfileSpec | None) -> dict[str, str]:
    assert spec is not None
    return {name: entry.reference for name, entry in spec.packages.items()}


def system_of(inventory: Inventory, host: str) -> dict[str, str]:
    return references(inventory.desired(host).system)


FAR_AND_NEAR = """
    all:
      vars:
        desired:
          packages: [htop, jq, orders@5.0]
          users:
            deploy: {packages: [git, tree]}
      children:
        app:
          vars: {desired: {packages: [orders@5.1]}}
          hosts:
            app02:
          children:
            canary:
              hosts:
                app01: {desired: {packages: [jq@1.7], users: {deploy: {packages: [tree@2]}}}}
              vars: {desired: {packages: [orders@5.2]}}
        other:
          hosts: {other01: }
"""


def test_a_nearer_entry_replaces_the_farther_one_of_its_name(tmp_path: Path) -> None:
    inventory = read(tmp_path, FAR_AND_NEAR)
    assert system_of(inventory, "app01") == {"htop": "htop", "jq": "jq@1.7", "orders": "orders@5.2"}
    assert system_of(inventory, "app02") == {"htop": "htop", "jq": "jq", "orders": "orders@5.1"}
    assert system_of(inventory, "other01") == {"htop": "htop", "jq": "jq", "orders": "orders@5.0"}
    assert references(inventory.desired("app01").users["deploy"]) == {"git": "git", "tree": "tree@2"}


def test_an_entry_knows_where_it_came_from_and_what_it_replaced_nearest_first(tmp_path: Path) -> None:
    system = read(tmp_path, FAR_AND_NEAR).desired("app01").system
    assert system is not None
    origin = system.packages["orders"].origin
    assert (origin.scope, origin.text, origin.position.line) == ("group canary", "orders@5.2", 17)
    assert [(old.scope, old.text, old.position.line) for old in origin.replaces] == [
        ("group app", "orders@5.1", 10),
        ("group all", "orders@5.0", 5),
    ]
    assert all(old.replaces == () for old in origin.replaces)


def test_the_profiles_that_no_list_is_given_for_are_left_alone(tmp_path: Path) -> None:
    inventory = read(
        tmp_path,
        """
        all:
          hosts:
            none:
            user: {desired: {users: {alice: {packages: [jq]}, bob: {}}}}
            empty: {desired: {packages: []}}
        """,
    )
    assert inventory.desired("none").profiles == {}
    assert list(inventory.desired("user").profiles) == [ProfileId("alice")]
    assert inventory.desired("empty").profiles == {ProfileId.SYSTEM: ProfileSpec({})}


def test_two_equally_near_that_differ_are_an_error_naming_both_lines(tmp_path: Path) -> None:
    (error,) = errors_of(
        tmp_path,
        """
        all:
          children:
            web: {hosts: {"web[01:03]": }}
            edge: {hosts: {"web[01:02]": }}
        """,
        group_vars__web="a: 1\nb: 2\ndesired:\n  packages: [ nginx@1.24]\n",
        group_vars__edge="a: 1\nb: 2\nc: 3\nd: 4\ne: 5\ndesired:\n  packages: [ nginx@1.26]\n",
    )
    assert error.message == (
        "group_vars/edge.yml:7:15: 'nginx' is declared twice at the same distance\n"
        "edge.yml:7:15     nginx@1.26   (group edge)\n"
        "web.yml:4:15      nginx@1.24   (group web)      on web01, web02"
    )
    assert error.hint == "say it in a nearer group or host, or set ansible_group_priority"


def test_files_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    (error,) = errors_of(
        tmp_path,
        "all: {children: {a: {hosts: {h: }}, b: {hosts: {h: }}}}",
        group_vars__a__main="desired: {packages: [x@1]}",
        group_vars__b__main="desired: {packages: [x@2]}",
    )
    assert "group_vars/a/main.yml:1:22     x@1" in error.message


def test_many_hosts_of_one_fault_are_counted(tmp_path: Path) -> None:
    (message,) = faults_of(
        tmp_path,
        """
        all:
          children:
            a: {hosts: {"h[1:40]": }, vars: {desired: {packages: [x@1]}}}
            b: {hosts: {"h[1:40]": }, vars: {desired: {packages: [x@2]}}}
        """,
    )
    assert message.endswith("      on h1, h2, h3, h4, h5 and 35 more")


def test_two_equally_near_that_agree_are_one_entry(tmp_path: Path) -> None:
    inventory = read(
        tmp_path,
        """
        all:
          children:
            a: {hosts: {h: }, vars: {desired: {packages: [x@1, y]}}}
            b: {hosts: {h: }, vars: {desired: {packages: [x@1, z]}}}
        """,
    )
    assert system_of(inventory, "h") == {"x": "x@1", "y": "y", "z": "z"}


def test_a_priority_of_the_group_orders_groups_of_one_depth(tmp_path: Path) -> None:
    inventory = read(
        tmp_path,
        """
        all:
          children:
            a: {hosts: {h: }, vars: {ansible_group_priority: 10, desired: {packages: [x@1]}}}
            b: {hosts: {h: }, vars: {desired: {packages: [x@2]}}}
        """,
    )
    assert system_of(inventory, "h") == {"x": "x@1"}


def test_a_hosts_file_and_group_vars_are_equally_near_and_all_is_the_farthest(tmp_path: Path) -> None:
    hosts = "all: {children: {web: {hosts: {h: }, vars: {desired: {packages: [x@2]}}}}}"
    assert system_of(read(tmp_path / "a", hosts, group_vars__all="desired: {packages: [x@1]}"), "h") == {"x": "x@2"}
    (message,) = faults_of(tmp_path / "b", hosts, group_vars__web="desired: {packages: [x@1]}")
    assert "'x' is declared twice at the same distance" in message


def test_an_option_that_differs_is_a_difference(tmp_path: Path) -> None:
    (message,) = faults_of(tmp_path, "all: {hosts: {h: {desired: {packages: [gcc@13, gcc@13: {priority: 4}]}}}}")
    assert "gcc@13 (priority 5)   (host h)\nhosts.yml:1:48     gcc@13 (priority 4)   (host h)" in message


def test_one_list_that_names_a_package_twice_is_told_to_keep_one(tmp_path: Path) -> None:
    (error,) = errors_of(tmp_path, "all: {hosts: {h: {desired: {packages: [jq, jq@1.7]}}}}")
    assert error.hint == "keep one of them"


def test_drop_takes_away_what_comes_from_farther(tmp_path: Path) -> None:
    inventory = read(
        tmp_path,
        """
        all:
          vars: {desired: {packages: [a, b], users: {u: {packages: [c, d]}, v: {packages: [e]}}}}
          hosts:
            h: {desired: {drop: {packages: [a], users: [v]}, users: {u: {drop: {packages: [c]}}}}}
        """,
    )
    desired = inventory.desired("h")
    assert references(desired.system) == {"b": "b"}
    assert {user: list(spec.packages) for user, spec in desired.users.items()} == {"u": ["d"]}
    assert [(gone.user, gone.entry.name, gone.by.scope) for gone in inventory.dropped("h")] == [
        ("", "a", "host h"),
        ("u", "c", "host h"),
        ("v", "e", "host h"),
    ]


def test_profiles_at_places_are_merged_and_dropped_as_those_of_users_are(tmp_path: Path) -> None:
    inventory = read(
        tmp_path,
        """
        all:
          vars:
            desired:
              users: {default: {packages: [z]}}
              profiles:
                default: {packages: [a@1, b]}
                /opt/tools: {packages: [c]}
          hosts:
            h:
              desired:
                drop: {profiles: [/opt/tools]}
                profiles: {default: {packages: [a@2], drop: {packages: [b]}}}
            i:
        """,
    )
    desired = inventory.desired("h")
    assert {place: references(spec) for place, spec in desired.places.items()} == {"default": {"a": "a@2"}}
    assert references(desired.users["default"]) == {"z": "z"}
    assert list(map(str, desired.profiles)) == ["default", "user/default"]
    assert list(map(str, inventory.desired("i").profiles)) == ["/opt/tools", "default", "user/default"]
    assert [gone.entry.name for gone in inventory.dropped("h")] == ["b", "c"]


def test_what_a_nearer_place_declares_again_is_there_again(tmp_path: Path) -> None:
    inventory = read(
        tmp_path,
        """
        all:
          vars: {desired: {packages: [a]}}
          children:
            g: {vars: {desired: {drop: {packages: [a]}}}, hosts: {h: {desired: {packages: [a@2]}}}}
        """,
    )
    assert system_of(inventory, "h") == {"a": "a@2"}


DROPS = {
    "nothing of that name": (
        "all: {vars: {desired: {packages: [ripgrep]}}, hosts: {h: {desired: {drop: {packages: [ripgerp]}}}}}",
        "hosts.yml:1:87: nothing to drop: no package 'ripgerp' comes from farther away (on h)",
        "did you mean 'ripgrep'?",
    ),
    "nothing of that name for a user": (
        "all: {hosts: {h: {desired: {users: {u: {drop: {packages: [a]}}}}}}}",
        "hosts.yml:1:59: nothing to drop: no package 'a' of user u comes from farther away (on h)",
        None,
    ),
    "no such user": (
        "all: {hosts: {h: {desired: {drop: {users: [bob]}}}}}",
        "hosts.yml:1:44: nothing to drop: no user 'bob' comes from farther away (on h)",
        None,
    ),
    "no such profile": (
        "all: {hosts: {h: {desired: {profiles: {default: {}}, drop: {profiles: [/opt/tools]}}}}}",
        "hosts.yml:1:72: nothing to drop: no profile '/opt/tools' comes from farther away (on h)",
        None,
    ),
    "nothing of that name for a profile": (
        "all: {hosts: {h: {desired: {profiles: {/opt/tools: {drop: {packages: [a]}}}}}}}",
        "hosts.yml:1:71: nothing to drop: no package 'a' of profile /opt/tools comes from farther away (on h)",
        None,
    ),
    "what the same place declares": (
        "all: {hosts: {h: {desired: {packages: [a], drop: {packages: [a]}}}}}",
        """hosts.yml:1:62: 'a' is dropped and declared at the same distance
hosts.yml:1:62     drop   (host h)
hosts.yml:1:40     a      (host h)      on h""",
        "keep one of them",
    ),
    "a name with a version": (
        "all: {vars: {desired: {packages: [a]}}, hosts: {h: {desired: {drop: {packages: [a@1]}}}}}",
        "hosts.yml:1:81: 'a@1' is not the name of a package",
        "drop 'a'",
    ),
}


@pytest.mark.parametrize("name", DROPS)
def test_a_drop_that_does_nothing_is_an_error(name: str, tmp_path: Path) -> None:
    hosts, message, hint = DROPS[name]
    (error,) = errors_of(tmp_path, hosts)
    assert (error.message, error.hint) == (message, hint)


def test_packages_are_named_by_what_stands_before_the_version(tmp_path: Path) -> None:
    path = "/nix/store/0c0b0dhzr9vwzhdhcljfdn0kw8r4hx9m-nginx-1.24.0"
    inventory = read(
        tmp_path,
        f"all: {{hosts: {{h: {{desired: {{packages: [python3@3.10, 'nixpkgs:jq', {path}, a: {{priority: 4}}]}}}}}}}}",
    )
    system = inventory.desired("h").system
    assert system is not None
    assert {name: (entry.reference, entry.priority) for name, entry in system.packages.items()} == {
        "python3": ("python3@3.10", 5),
        "jq": ("nixpkgs:jq", 5),
        "nginx": (path, 5),
        "a": ("a", 4),
    }


def test_words_that_yaml_types_stay_words_in_a_list_of_packages(tmp_path: Path) -> None:
    inventory = read(tmp_path, "all: {hosts: {h: {desired: {packages: [on, 1.10, 08, null]}}}}")
    assert system_of(inventory, "h") == {"on": "on", "1.10": "1.10", "08": "08", "null": "null"}


def test_the_system_of_a_host_is_x86_64_unless_a_place_says_otherwise(tmp_path: Path) -> None:
    inventory = read(
        tmp_path,
        "all: {children: {arm: {vars: {desired: {system: aarch64-linux}}, hosts: {a: }}}, hosts: {b: }}",
    )
    assert [inventory.desired(host).architecture for host in ("a", "b")] == ["aarch64-linux", "x86_64-linux"]


# The property: nothing but distance orders blocks.

NAMES = st.sampled_from("abcd")
PACKAGES = st.lists(st.tuples(NAMES, st.sampled_from(["", "@1", "@2"])).map("".join), max_size=3, unique=True)
PROFILE = st.fixed_dictionaries({}, optional={"packages": PACKAGES, "drop": st.lists(NAMES, max_size=2, unique=True)})
BLOCK = st.tuples(PROFILE, st.dictionaries(st.sampled_from("uv"), PROFILE, max_size=2))
LAYERS = st.lists(st.lists(BLOCK, min_size=1, max_size=3), max_size=4)


def as_text(profile: Mapping[str, list[str]]) -> str:
    parts = []
    if "packages" in profile:
        parts.append(f"packages: [{', '.join(profile['packages'])}]")
    if "drop" in profile:
        parts.append(f"drop: {{packages: [{', '.join(profile['drop'])}]}}")
    return ", ".join(parts)


def told(merged: Merged) -> object:
    return merged.architecture, merged.packages, set(merged.dropped), sorted(f.message for f, _ in merged.faults)


@settings(max_examples=150, deadline=None)
@given(LAYERS, st.randoms(use_true_random=False))
def test_the_order_of_files_within_a_distance_makes_no_difference(
    layers: list[list[tuple[Mapping[str, list[str]], Mapping[str, Mapping[str, list[str]]]]]], chance: random.Random
) -> None:
    numbers = itertools.count()
    log = FaultLog()
    resolved = []
    for layer in layers:
        blocks = []
        for system, users in layer:
            named = ", ".join(f"{user}: {{{as_text(profile)}}}" for user, profile in users.items())
            text = f"{{{', '.join(filter(None, [as_text(system), f'users: {{{named}}}']))}}}"
            file = f"f{next(numbers):02}"
            blocks.append(resolve_fixed(parse_block(parse(text, file), f"group {file}", log), log))
        resolved.append(blocks)
    assert not log
    shuffled = [chance.sample(blocks, len(blocks)) for blocks in resolved]
    assert told(merge(resolved)) == told(merge(shuffled))
