"""Users' profiles: found where Nix puts them, and touched only by somebody who has become the user."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from reconciler.core.errors import InternalError, RefusedError, StoreError
from reconciler.core.profile import accounts, locate
from reconciler.core.profile.accounts import Account, as_user, find_account
from reconciler.core.profile.generations import Recorded
from reconciler.core.profile.locate import UserProfile
from reconciler.core.profile.switching import Applied, Before, Step
from tests.core.profile.homes import GROUP, UIDS, link, make_owned, make_root, own

A = "/nix/store/" + "a" * 32 + "-user-environment"
B = "/nix/store/" + "b" * 32 + "-user-environment"
DEFAULT = "/nix/var/nix/profiles/per-user/alice/profile"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs several users")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_root(tmp_path / "host")


def read(root: Path, user: str = "alice") -> UserProfile:
    return locate.read(locate.account_of(user, str(root)), str(root))


def change(root: Path, step: Step, user: str = "alice") -> Applied:
    account = locate.account_of(user, str(root))
    return locate.change(account, locate.read(account, str(root)), step, str(root))


def install(root: Path, to: str = A, user: str = "alice") -> Applied:
    return change(root, Step(read(root, user).current, to), user)


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_an_account_of_another_root_is_read_from_its_passwd(root: Path) -> None:
    assert find_account("alice", str(root)) == Account("alice", UIDS["alice"], GROUP, "/home/alice")
    assert find_account("nobody-at-all", str(root)) is None


def test_an_account_of_this_machine_is_found_by_its_name_service() -> None:
    account = find_account("root")
    assert account is not None
    assert (account.uid, account.gid, account.home, account.private_group) == (0, 0, "/root", True)
    for name in ("nobody-at-all", "with\0nul", ""):
        assert find_account(name) is None


def test_a_group_with_the_users_name_is_private(root: Path) -> None:
    (root / "etc/group").write_text(f"alice:x:{GROUP}:\n")
    account = find_account("alice", str(root))
    assert account is not None
    assert account.private_group


def test_lines_that_are_no_accounts_are_passed_over(root: Path) -> None:
    with (root / "etc/passwd").open("a") as file:
        file.write("\n# a comment\n+::::::\ncarol:x:nan:1::/:\n")
    assert find_account("carol", str(root)) is None
    assert find_account("alice", str(root)) is not None


# --- becoming somebody ------------------------------------------------------------------------------------------------


def who(root: int, account: Account) -> list[object]:
    return [os.getresuid(), os.getresgid(), sorted(os.getgroups()), os.getcwd() != "", os.umask(0o77)]


@needs_root
def test_the_child_is_the_user_in_every_respect(root: Path) -> None:
    account = locate.account_of("alice", str(root))
    uids, gids, groups, _, umask = as_user(account, who, root=str(root))
    assert (uids, gids, groups, umask) == ([41001] * 3, [GROUP] * 3, [GROUP], 0o022)
    assert os.geteuid() == 0


def test_one_who_is_the_user_already_forks_all_the_same() -> None:
    account = Account("me", os.geteuid(), os.getegid(), "/")
    assert as_user(account, lambda root, account: os.getpid()) != os.getpid()


def test_errors_of_the_child_are_raised_here_with_their_class() -> None:
    account = Account("me", os.geteuid(), os.getegid(), "/")

    def fail(root: int, account: Account, what: str) -> None:
        if what == "refused":
            raise RefusedError("no", "a hint")
        if what == "system":
            raise FileNotFoundError(2, "No such file or directory", "/x")
        raise ValueError(what)

    with pytest.raises(RefusedError, match=r"^no$") as caught:
        as_user(account, fail, "refused")
    assert caught.value.hint == "a hint"
    with pytest.raises(StoreError, match=r"^as me: /x: No such file or directory$"):
        as_user(account, fail, "system")
    with pytest.raises(InternalError, match="odd"):
        as_user(account, fail, "odd")
    with pytest.raises(InternalError, match="ended without an answer"):
        as_user(account, lambda root, account: os._exit(1))


def test_a_large_answer_comes_whole() -> None:
    account = Account("me", os.geteuid(), os.getegid(), "/")
    assert len(as_user(account, lambda root, account: "x" * 3_000_000)) == 3_000_000


def test_a_home_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "PATIENCE", 0.2)
    account = Account("me", os.geteuid(), os.getegid(), "/far/away")
    started = time.monotonic()
    with pytest.raises(StoreError, match="the home of me, /far/away, did not answer within"):
        as_user(account, lambda root, account: time.sleep(60))
    assert time.monotonic() - started < 5


def test_the_child_keeps_no_descriptor_of_the_agent(tmp_path: Path) -> None:
    account = Account("me", os.geteuid(), os.getegid(), "/")
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        names = as_user(account, lambda root, account: [os.path.realpath(f"/proc/self/fd/{n}") for n in range(20)])
    assert str(tmp_path / "lock") not in names
    assert names[:3] == ["/dev/null"] * 3


@pytest.mark.skipif(os.geteuid() == 0, reason="as root: it may become anybody")
def test_an_ordinary_user_cannot_become_another() -> None:
    with pytest.raises(StoreError, match="only root may change the profile of other"):
        as_user(Account("other", os.geteuid() + 1, os.getegid(), "/"), who)


# --- where the profile is ---------------------------------------------------------------------------------------------


def test_without_any_link_it_is_nixs_default_and_the_home_link_is_wanted(root: Path) -> None:
    found = read(root)
    assert found == UserProfile(DEFAULT, DEFAULT, Before(None, None, 0), ())
    assert locate.user_profile_link("alice", str(root)) == DEFAULT


def test_who_cannot_make_nixs_default_has_the_profile_in_the_home_unless_it_is_there(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locate, "_makes_per_user", lambda _: False)
    in_home = "/home/alice/.local/state/nix/profiles/profile"
    found = read(root)
    assert (found.link, found.home_link) == (in_home, in_home)
    assert install(root).created
    assert (root / "home/alice/.nix-profile").readlink() == Path(in_home)
    assert read(root).current == Recorded(1, A)
    # Nix's daemon has made the directory for the user; then that is the place, and nothing above it is touched.
    (root / "nix/var/nix/profiles/per-user").mkdir(parents=True)
    make_owned(root / "nix/var/nix/profiles/per-user/bob", "bob")
    assert read(root, "bob").link == "/nix/var/nix/profiles/per-user/bob/profile"
    assert install(root, user="bob").created
    assert read(root, "bob").current == Recorded(1, A)


PLACES = {
    "/opt/tools/profile": "/opt/tools/profile",
    "/opt/./x/../tools/profile": "/opt/tools/profile",
    "nixes/mine": "/home/alice/nixes/mine",
    "/home/alice/.local/state/nix/profiles/profile": "/home/alice/.local/state/nix/profiles/profile",
}


@pytest.mark.parametrize("target", PLACES)
def test_the_home_link_says_where_it_is_by_one_readlink(target: str, root: Path) -> None:
    link(root / "home/alice/.nix-profile", target, "alice")
    found = read(root)
    assert (found.link, found.home_link) == (PLACES[target], "")


def test_the_xdg_link_counts_without_a_home_link(root: Path) -> None:
    state = root / "home/alice/.local/state/nix"
    for directory in (state.parent.parent, state.parent, state):
        make_owned(directory, "alice")
    link(state / "profile", "profiles/other", "alice")
    found = read(root)
    assert (found.link, found.home_link) == ("/home/alice/.local/state/nix/profiles/other", "")


def test_an_xdg_profile_counts_without_any_link_to_it(root: Path) -> None:
    state = root / "home/alice/.local/state/nix/profiles"
    for directory in (*reversed(state.parents[:3]), state):
        make_owned(directory, "alice")
    link(state / "profile", "profile-3-link", "alice")
    link(state / "profile-3-link", A, "alice")
    found = read(root)
    place = "/home/alice/.local/state/nix/profiles/profile"
    assert (found.link, found.home_link, found.current) == (place, place, Recorded(3, A))
    install(root, B)
    assert os.readlink(root / "home/alice/.nix-profile") == place
    assert os.readlink(state / "profile") == "profile-4-link"


def test_the_home_link_wins_over_xdg(root: Path) -> None:
    make_owned(root / "home/alice/.local", "alice")
    link(root / "home/alice/.nix-profile", DEFAULT, "alice")
    assert read(root).link == DEFAULT


# --- changing it ------------------------------------------------------------------------------------------------------


def test_a_first_install_makes_the_users_directory_profile_and_home_link(root: Path) -> None:
    applied = install(root)
    assert applied == Applied(Recorded(1, A), True)
    directory = root / "nix/var/nix/profiles/per-user/alice"
    status = directory.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o755, UIDS["alice"])
    assert os.readlink(directory / "profile") == "profile-1-link"
    assert os.readlink(directory / "profile-1-link") == A
    assert os.readlink(root / "home/alice/.nix-profile") == DEFAULT
    for made in (directory / "profile", directory / "profile-1-link", root / "home/alice/.nix-profile"):
        assert made.lstat().st_uid == UIDS["alice"]
    assert sorted(os.listdir(directory)) == ["profile", "profile-1-link"]
    assert (root / "nix/var/nix/profiles/per-user").stat().st_uid == os.geteuid()


def test_a_profile_of_the_users_own_is_changed_where_it_is(root: Path) -> None:
    link(root / "home/alice/.nix-profile", "nixes/mine", "alice")
    install(root)
    assert os.readlink(root / "home/alice/nixes/mine") == "mine-1-link"
    assert (root / "home/alice/nixes").stat().st_uid == UIDS["alice"]
    assert not (root / "nix").exists()


def test_what_the_step_did_not_expect_is_refused_and_stays(root: Path) -> None:
    install(root)
    with pytest.raises(RefusedError, match="was changed by something else just now"):
        change(root, Step(None, B))
    assert read(root).current == Recorded(1, A)


def test_a_recorded_generation_is_gone_back_to_by_number_and_path(root: Path) -> None:
    install(root, A)
    install(root, B)
    with pytest.raises(RefusedError, match=f"has no generation 1 that is {B}"):
        change(root, Step(Recorded(2, B), B, number=1))
    assert change(root, Step(Recorded(2, B), A, number=1)) == Applied(Recorded(1, A), False)
    assert [one.number for one in read(root).generations] == [1, 2]


def test_going_back_to_no_profile_keeps_the_generations(root: Path) -> None:
    install(root)
    assert change(root, Step(Recorded(1, A), "")) == Applied(None, False)
    found = read(root)
    assert (found.current, [one.number for one in found.generations]) == (None, [1])


def test_undoing_a_first_install_leaves_no_link(root: Path) -> None:
    account = locate.account_of("alice", str(root))
    found = locate.read(account, str(root))
    locate.change(account, found, Step(None, A), str(root))
    for _ in range(2):  # what is undone is undone
        locate.restore(account, found, Step(None, A), str(root))
        assert os.listdir(root / "nix/var/nix/profiles/per-user/alice") == []
        assert os.listdir(root / "home/alice") == []


def test_undoing_what_was_never_begun_changes_nothing(root: Path) -> None:
    account = locate.account_of("alice", str(root))
    locate.restore(account, locate.read(account, str(root)), Step(None, A), str(root))
    assert not (root / "nix").exists()
    install(root, A)
    found = locate.read(account, str(root))
    locate.restore(account, found, Step(Recorded(1, A), B), str(root))
    assert locate.read(account, str(root)) == found


def test_undoing_puts_back_the_generation_and_forgets_the_new_one(root: Path) -> None:
    install(root, A)
    account = locate.account_of("alice", str(root))
    found = locate.read(account, str(root))
    step = Step(Recorded(1, A), B)
    locate.change(account, found, step, str(root))
    locate.restore(account, found, step, str(root))
    assert locate.read(account, str(root)) == found
    assert os.path.lexists(root / "home/alice/.nix-profile")


def test_undoing_half_a_change_forgets_the_generation_that_was_made(root: Path) -> None:
    install(root, A)
    account = locate.account_of("alice", str(root))
    found = locate.read(account, str(root))
    link(root / "nix/var/nix/profiles/per-user/alice/profile-2-link", B, "alice")
    locate.restore(account, found, Step(Recorded(1, A), B), str(root))
    assert locate.read(account, str(root)) == found


def test_undoing_leaves_alone_what_somebody_changed_since(root: Path) -> None:
    account = locate.account_of("alice", str(root))
    found = locate.read(account, str(root))
    locate.change(account, found, Step(None, A), str(root))
    install(root, B)
    with pytest.raises(RefusedError):
        locate.restore(account, found, Step(None, A), str(root))
    assert read(root).current == Recorded(2, B)


@needs_root
def test_a_home_that_the_user_may_not_write_to_goes_without_its_link(root: Path) -> None:
    os.chown(root / "home/alice", 0, 0)
    install(root)
    assert os.listdir(root / "home/alice") == []
    assert read(root).current == Recorded(1, A)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_missing_account_is_told(root: Path) -> None:
    with pytest.raises(StoreError, match="there is no account 'nobody-at-all'"):
        locate.user_profile_link("nobody-at-all", str(root))


def test_a_missing_home_is_told(root: Path) -> None:
    with pytest.raises(StoreError, match="the home of gone, /home/gone, does not exist"):
        read(root, "gone")


@pytest.mark.parametrize("make", ["directory", "file"])
def test_a_home_link_that_is_none_is_told_and_stays(make: str, root: Path) -> None:
    place = root / "home/alice/.nix-profile"
    if make == "directory":
        place.mkdir()
    else:
        place.write_text("x")
    with pytest.raises(StoreError, match=r"/home/alice/\.nix-profile is not a link"):
        read(root)
    assert place.exists()


def test_a_home_link_into_the_store_is_told(root: Path) -> None:
    link(root / "home/alice/.nix-profile", A, "alice")
    with pytest.raises(StoreError, match="leads into the store"):
        read(root)


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_profile_directory_that_others_may_write_to_is_refused(mode: int, root: Path) -> None:
    install(root)
    os.chmod(root / "nix/var/nix/profiles/per-user/alice", mode)
    with pytest.raises(
        StoreError, match="others than alice may write to /nix/var/nix/profiles/per-user/alice"
    ) as caught:
        read(root)
    assert caught.value.hint == "chmod go-w /nix/var/nix/profiles/per-user/alice"


def test_a_private_group_may_write_to_a_profile_directory(root: Path) -> None:
    (root / "etc/group").write_text(f"alice:x:{GROUP}:\n")
    install(root)
    os.chmod(root / "nix/var/nix/profiles/per-user/alice", 0o775)
    assert read(root).current == Recorded(1, A)


@needs_root
def test_a_profile_directory_of_another_user_is_refused(root: Path) -> None:
    install(root, user="bob")
    link(root / "home/alice/.nix-profile", "/nix/var/nix/profiles/per-user/bob/profile", "alice")
    with pytest.raises(StoreError, match=r"per-user/bob belongs to user 41002, not to alice"):
        read(root)


@needs_root
def test_roots_own_profile_is_not_a_users_to_change(root: Path) -> None:
    os.makedirs(root / "nix/var/nix/profiles")
    link(root / "home/alice/.nix-profile", "/nix/var/nix/profiles/default", "alice")
    with pytest.raises(StoreError, match=r"/nix/var/nix/profiles belongs to root, not to alice"):
        read(root)


@needs_root
def test_a_directory_of_another_user_below_per_user_is_not_taken_over(root: Path) -> None:
    os.makedirs(root / "nix/var/nix/profiles/per-user")
    make_owned(root / "nix/var/nix/profiles/per-user/alice", "bob")
    with pytest.raises(StoreError, match="per-user/alice belongs to user 41002"):
        install(root)
    assert (root / "nix/var/nix/profiles/per-user/alice").stat().st_uid == 41002


@needs_root
def test_an_empty_directory_that_an_interrupted_run_left_to_root_is_finished(root: Path) -> None:
    os.makedirs(root / "nix/var/nix/profiles/per-user/alice")
    account = locate.account_of("alice", str(root))
    locate.change(account, UserProfile(DEFAULT, DEFAULT, Before(None, None, 0), ()), Step(None, A), str(root))
    assert (root / "nix/var/nix/profiles/per-user/alice").stat().st_uid == 41001


@needs_root
def test_a_directory_is_the_users_from_the_moment_it_is_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(fd: int, uid: int, gid: int) -> None:
        assert os.listdir(root / "nix/var/nix/profiles/per-user") != ["alice"]
        raise OSError(errno.EIO, "Input/output error")

    account = locate.account_of("alice", str(root))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fchown", killed)
        with pytest.raises(OSError, match="Input/output error"):
            locate.prepare(account, DEFAULT, str(root))
    assert os.listdir(root / "nix/var/nix/profiles/per-user") == []
    (root / "nix/var/nix/profiles/per-user/.alice.tmp-17-0123abcd").mkdir()
    locate.prepare(account, DEFAULT, str(root))
    assert os.listdir(root / "nix/var/nix/profiles/per-user") == ["alice"]
    assert (root / "nix/var/nix/profiles/per-user/alice").stat().st_uid == 41001


def test_a_per_user_folder_that_all_may_write_to_is_refused(root: Path) -> None:
    os.makedirs(root / "nix/var/nix/profiles/per-user")
    os.chmod(root / "nix/var/nix/profiles/per-user", 0o1777)
    with pytest.raises(StoreError, match="others than root may write to /nix/var/nix/profiles/per-user"):
        install(root)


@needs_root
def test_a_link_in_a_home_is_not_followed(root: Path) -> None:
    victim = make_owned(root / "victim", "alice")
    link(root / "home/alice/.nix-profile", "nixes/profile", "alice")
    link(root / "home/alice/nixes", "/victim", "alice")
    with pytest.raises(StoreError, match="/home/alice/nixes is a link: none is followed in a home"):
        read(root)
    assert list(victim.iterdir()) == []


@needs_root
def test_a_users_link_on_the_way_to_a_profile_elsewhere_is_not_followed(root: Path) -> None:
    make_owned(root / "scratch", "bob")
    make_owned(root / "scratch/real", "alice")
    link(root / "scratch/trap", "real", "bob")
    link(root / "home/alice/.nix-profile", "/scratch/trap/profile", "alice")
    with pytest.raises(StoreError, match="/scratch/trap is a link, and not one that root made"):
        read(root)


@needs_root
def test_a_home_behind_a_link_of_roots_is_a_home(root: Path) -> None:
    os.rename(root / "home", root / "homes")
    (root / "home").symlink_to("/homes")
    install(root)
    assert os.readlink(root / "homes/alice/.nix-profile") == DEFAULT


@needs_root
def test_a_home_behind_a_users_link_is_refused(root: Path) -> None:
    os.rename(root / "home/alice", root / "elsewhere")
    link(root / "home/alice", "/elsewhere", "bob")
    with pytest.raises(StoreError, match="/home/alice is a link, and not one that root made"):
        read(root)


def test_a_home_that_all_may_write_to_is_refused(root: Path) -> None:
    os.chmod(root / "home/alice", 0o777)
    with pytest.raises(StoreError, match="others than alice may write to /home/alice"):
        read(root)


def test_a_profile_that_is_a_directory_is_refused_and_stays(root: Path) -> None:
    install(root)
    own(root / "nix/var/nix/profiles/per-user/alice", "alice")
    (root / "nix/var/nix/profiles/per-user/alice/profile").unlink()
    make_owned(root / "nix/var/nix/profiles/per-user/alice/profile", "alice")
    with pytest.raises(StoreError, match="is not a link"):
        read(root)
