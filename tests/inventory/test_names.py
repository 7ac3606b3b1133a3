"""Ranges in host keys, and which names are refused."""

from __future__ import annotations

import pytest

from reconciler.inventory.names import expand_ranges, host_name_hint, host_name_problem, split_port

EXPANDED = {
    "web01": ["web01"],
    "web[01:03]": ["web01", "web02", "web03"],
    "web[8:11]": ["web8", "web9", "web10", "web11"],
    "web[:2]": ["web0", "web1", "web2"],
    "n[0:10:5].x": ["n0.x", "n5.x", "n10.x"],
    "r[a:c]": ["ra", "rb", "rc"],
    "r[a:e:2]": ["ra", "rc", "re"],
    "r[Y:Z]-[1:2]": ["rY-1", "rY-2", "rZ-1", "rZ-2"],
}
BAD_RANGES = {
    "web[3:1]": "the range [3:1] ends before it begins",
    "web[01:100]": "the ends of the range [01:100] have different widths",
    "web[1]": "the range [1] is not [BEGIN:END] or [BEGIN:END:STEP]",
    "web[a:3]": "the ends of the range [a:3] are not two numbers or two letters",
    "web[aa:cc]": "the ends of the range [aa:cc] are not two numbers or two letters",
    "web[1:]": "the ends of the range [1:] are not two numbers or two letters",
    "web[1:5:0]": "the step of the range [1:5:0] is not a number above 0",
    "web[0:99999999999]": "the range [0:99999999999] has more than 100,000 hosts",
}
PORTS = {
    "web01": ("web01", None),
    "web01:2222": ("web01", 2222),
    "web[01:03]": ("web[01:03]", None),
    "web[01:03]:22": ("web[01:03]", 22),
    "[2001:db8::1]:22": ("2001:db8::1", 22),
    "2001:db8::1": ("2001:db8::1", None),
}
BAD_HOSTS = {
    "-oProxyCommand=id": "oProxyCommand-id",
    "$(id)": "id",
    "web\n01": "web-01",
    "web 01": "web-01",
    "a'b": "a-b",
    'a"b': "a-b",
    "`id`": "id",
    "../x": "x",
    "a/b": "a-b",
    "a;b": "a-b",
    "user@web01": "user-web01",
    "\x00": None,
    "": None,
}


@pytest.mark.parametrize("key", EXPANDED)
def test_a_range_spells_its_hosts_in_order(key: str) -> None:
    assert list(expand_ranges(key)) == EXPANDED[key]


@pytest.mark.parametrize("key", BAD_RANGES)
def test_a_range_that_spells_nothing_sensible_says_why(key: str) -> None:
    with pytest.raises(ValueError, match="range") as raised:
        list(expand_ranges(key))
    assert str(raised.value) == BAD_RANGES[key]


@pytest.mark.parametrize("key", PORTS)
def test_a_port_stands_behind_the_last_colon_unless_the_address_has_colons(key: str) -> None:
    assert split_port(key) == PORTS[key]


@pytest.mark.parametrize("name", BAD_HOSTS)
def test_a_name_that_is_an_option_a_path_or_shell_is_refused_with_the_nearest_that_is_not(name: str) -> None:
    assert host_name_problem(name) == f"{name!r} cannot name a host"
    meant = BAD_HOSTS[name]
    assert host_name_hint(name).endswith(f"; did you mean '{meant}'?" if meant else "'-' and '_'")


@pytest.mark.parametrize("name", ["web01", "a.b-c_d", "10.0.0.1", "fe80::1%eth0", "münchen", "_x"])
def test_an_ordinary_name_is_accepted(name: str) -> None:
    assert host_name_problem(name) is None


def test_a_name_is_not_longer_than_dns_allows() -> None:
    assert host_name_problem("a" * 254) == "a host name has at most 253 characters"
