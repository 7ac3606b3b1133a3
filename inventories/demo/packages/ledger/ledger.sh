#!/bin/sh
# ledger [balance]: how many accounts there are, or what they come to
set -eu
accounts=@out@/share/ledger/accounts.txt

case ${1:-count} in
    count) exec @tally@/bin/tally "$accounts" ;;
    balance)
        total=0
        while read -r name amount; do
            case $name in '' | '#'*) continue ;; esac
            total=$((total + amount))
        done < "$accounts"
        echo "$total"
        head -n 1 @phrases@/share/phrases/farewells.txt
        ;;
    *)
        echo "usage: ledger [count | balance]" >&2
        exit 2
        ;;
esac
