#!/bin/sh
# The demo: a shop of four hosts, told by the commands that a person would type. `make demo` runs it.
#
#   story.sh         tell the story; the hosts stay up
#   story.sh down    end the hosts and remove everything that the story made
#
# It works on a copy of this folder in .demo/ at the project's root, with a store and a journal of its own there:
# neither the checkout, nor /nix, nor your home is changed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
demo=$root/.demo

enter() {
    cd "$demo"
    . ./env
}

write_env() {
    cat >"$demo/env" <<END
# For a shell in this folder:  . ./env
PATH="$root/.venv/bin:\$PATH"
RECONCILER_STORE="$demo/store"
XDG_STATE_HOME="$demo/state"
XDG_DATA_HOME="$demo/data"
export PATH RECONCILER_STORE XDG_STATE_HOME XDG_DATA_HOME
unset RECONCILER_INVENTORY
END
}

down() {
    if [ -d "$demo" ]; then
        (enter && reconciler lab down)
        chmod -R u+w "$demo"
        rm -rf "$demo"
    fi
}

if [ "${1:-}" = down ]; then
    down
    exit
fi

# --- how it is told --------------------------------------------------------------------------------------------------

tell() { printf '\n\n# %s\n' "$*"; }

# run STATUS COMMAND: print the command, run it, and stop the story when it ends otherwise.
run() {
    expected=$1
    shift
    printf '\n$ %s\n' "$*"
    status=0
    sh -c "$*" </dev/null 2>&1 || status=$?
    if [ "$status" != "$expected" ]; then
        printf '\nThe story expected exit status %s here and got %s.\n' "$expected" "$status" >&2
        exit 1
    fi
    case $status$1 in
    0* | *deploy*) ;; # a deploy says its own
    *) printf 'exit status %s\n' "$status" ;;
    esac
}

# --- the story -------------------------------------------------------------------------------------------------------

down
mkdir -p "$demo/inventories"
cp -R "$here" "$demo/inventories/demo"
rm -rf "$demo/inventories/demo/.lab" "$demo/inventories/demo/story.sh"
write_env
enter
web=inventories/demo/group_vars/web.yml
ssh="ssh -F inventories/demo/.lab/ssh_config"

tell 'Four throw-away hosts on this machine: no root, no containers, nothing installed on them.'
run 0 reconciler lab up

tell 'What the inventory wants, and what that would change. Nothing is changed yet.'
run 0 reconciler plan --hosts all

tell 'The first deployment: built here, copied over SSH, staged on every host, then switched.'
run 0 "deploy --hosts all --yes=4 -m 'the shop opens'"
run 0 "$ssh web01 /run/current-system/sw/bin/site check"
run 0 "$ssh alice@web01 'bash -lc \"tally /etc/services\"'"

tell 'An upgrade of the web hosts, while web03 is switched off.'
run 0 reconciler lab stop web03
run 0 "sed -i 's/site@1.0/site@1.1/' $web && cat $web"
run 5 "deploy --hosts web --yes -m 'site 1.1'"

tell 'web03 is back. The same command again: the others need nothing, web03 catches up.'
run 0 reconciler lab start web03
run 0 "deploy --hosts web --yes -m 'site 1.1'"
run 0 "$ssh web03 /run/current-system/sw/bin/site check"

tell 'An upgrade that builds, copies and switches well, and is bad all the same.'
run 0 "sed -i 's/site@1.1/site@2.0/' $web && cat $web"
run 0 "deploy --hosts web --yes -m 'site 2.0'"
run 1 "$ssh web01 /run/current-system/sw/bin/site check"

tell 'Undone exactly: each host gets back the generation it had before that deployment.'
run 0 reconciler rollback --deployment last --yes
run 0 "$ssh web01 /run/current-system/sw/bin/site check"
run 0 "sed -i 's/site@2.0/site@1.1/' $web"

tell 'With the inventory as the hosts are, a deploy has nothing to do: one login and one question to each.'
run 0 deploy --hosts all --yes=4
run 0 reconciler history

cat <<END


The hosts stay up. Three things to try:

  cd .demo && . ./env
  1.  $ssh alice@web02             a shell on a host; try: hostcard, tally /etc/passwd
  2.  reconciler generations --hosts web01      then: reconciler rollback --hosts web01
  3.  edit $web      then: reconciler plan --hosts web

make demo-down ends them and leaves nothing behind.
END
