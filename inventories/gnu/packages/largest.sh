#!/bin/sh
# largest DIRECTORY [COUNT]: its largest files, the largest first.
tree -J -f -s "$1" | jq -r --argjson count "${2:-10}" '
    [.. | objects | select(.type == "file")] | sort_by(-.size)[:$count][] | "\(.size)\t\(.name)"'
