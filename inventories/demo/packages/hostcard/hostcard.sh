#!/bin/sh
set -eu
. "@shell_kit@/lib/shell-kit.sh"

row host "$(uname -n)"
row kernel "$(uname -sr)"
row user "$(id -un)"
if [ -e /run/current-system ]; then
    row system "$(readlink /run/current-system)"
fi
