"""`default`, and profiles at a path of their own: where they stand, and whose the way there must be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError, StoreError
from reconciler.core.profile import places
from reconciler.core.profile.names import ProfileId, place_problem

PROFILES = "/nix/var/nix/profiles"

GOOD = ["default", "/opt/tools", "/srv/a.b/c_d+e@f", f"{PROFILES}/site", f"{PROFILES}/site/tools", "/nixos/tools"]
BAD = [
    "",
    "tools",
    "opt/tools",
    "/",
    "//opt",
    "/opt/",
    "/opt//tools",
    "/opt/./tools",
    "/opt/../tools",
    "/opt/two words",
    "/opt/$(id)",
    "/opt/a:b",
    "/" + "x" * 300,
    "/nix/store/tools",
    "/nix/var/reconciler/tools",
    "/nix/var/nix/gcroots/tools",
    "/proc/tools",
    "/sys/tools",
    "/dev/shm/tools",
    "/run/tools",
    PROFILES,
    f"{PROFILES}/system",
    f"{PROFILES}/system/tools",
    f"{PROFILES}/reconciler",
    f"{PROFILES}/default",
    f"{PROFILES}/per-user/alice/profile",
    f"{PROFILES}/system-3-link",
    "/opt/tools-12-link",
    "/opt/tools.lock",
]


@pytest.mark.parametrize("place", GOOD)
def test_a_place_is_read_back_as_it_is_written(place: str) -> None:
    assert str(ProfileId.parse(place)) == ProfileId(place=place).label == place


@pytest.mark.parametrize("place", BAD)
def test_what_cannot_be_a_place_is_refused(place: str) -> None:
    assert place_problem(place)
    with pytest.raises(FormatError):
        ProfileId.parse(place)


def test_the_system_comes_first_and_users_last() -> None:
    mixed = [ProfileId("alice"), ProfileId(place="default"), ProfileId.SYSTEM, ProfileId(place="/opt/tools")]
    assert [str(one) for one in sorted(mixed)] == ["system", "/opt/tools", "default", "user/alice"]


@pytest.mark.parametrize(
    ("target", "link"),
    [
        (None, places.DEFAULT_LINK),
        ("default-3-link", places.DEFAULT_LINK),
        (f"{PROFILES}/per-user/root/profile", places.ROOTS_OWN),
        ("per-user/root/profile", places.ROOTS_OWN),
        (f"{PROFILES}/per-user/alice/profile", places.DEFAULT_LINK),
    ],
)
def test_default_is_followed_to_roots_own_profile_and_nowhere_else(
    target: str | None, link: str, tmp_path: Path
) -> None:
    (tmp_path / PROFILES.lstrip("/")).mkdir(parents=True)
    if target is not None:
        (tmp_path / places.DEFAULT_LINK.lstrip("/")).symlink_to(target)
    assert places.link_of("default", str(tmp_path)) == link
    assert places.link_of("/opt/tools", str(tmp_path)) == "/opt/tools"


def test_a_missing_directory_is_made_only_when_it_is_to_be(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    root, link = str(tmp_path), "/opt/site/tools"
    with pytest.raises(FileNotFoundError), places.opened(link, root):
        pass
    assert places.missing_directories(link, root) == ("/opt", "/opt/site")
    with places.opened(link, root, create=True) as generations:
        assert (generations.name, generations.current()) == ("tools", None)
    assert (tmp_path / "opt/site").stat().st_mode & 0o7777 == 0o755
    assert places.missing_directories(link, root) == ()


def test_a_directory_that_others_may_change_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "opt/site").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").symlink_to("elsewhere")
    (tmp_path / "opt/site").chmod(0o777)
    for link, told in (("/opt/site/tools", "others than root may write"), ("/linked/tools", "is a link")):
        with pytest.raises(StoreError, match=told), places.opened(link, str(tmp_path), create=True):
            pass
    (tmp_path / "opt/site").chmod(0o755)
    (tmp_path / "opt").chmod(0o1777)  # as /tmp: what root owns there stays root's
    with places.opened("/opt/site/tools", str(tmp_path)):
        pass
    (tmp_path / "opt").chmod(0o777)
    with pytest.raises(StoreError, match="others than root"), places.opened("/opt/site/tools", str(tmp_path)):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a directory of somebody else's")
def test_a_directory_of_somebody_elses_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "opt").mkdir()
    os.chown(tmp_path / "opt", 41001, 41001)
    with pytest.raises(StoreError, match="belongs to user 41001"), places.opened("/opt/tools", str(tmp_path)):
        pass
