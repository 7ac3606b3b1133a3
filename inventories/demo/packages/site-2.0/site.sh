#!/bin/sh
# site page | site version | site check
set -eu
. "@shell_kit@/lib/shell-kit.sh"
pages=@out@/share/site

case ${1:-page} in
    page) cat "$pages/index.html" ;;
    version) echo "site @version@" ;;
    check)
        grep -q '<h1>' "$pages/index.html" || die "the page has no heading"
        row site "@version@ is well"
        ;;
    *) die "usage: site [page | version | check]" ;;
esac
