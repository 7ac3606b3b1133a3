#!/bin/sh
# tally FILE...: the entries of each
set -eu
. "@shell_kit@/lib/shell-kit.sh"

[ $# -gt 0 ] || die "usage: tally FILE..."
for file; do
    [ -r "$file" ] || die "$file cannot be read"
    row "${file##*/}" "$(lines_of "$file")"
done
