# Functions for small programs. Read it with:  . "$SHELL_KIT/lib/shell-kit.sh"

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# row NAME VALUE: one line of a table
row() {
    printf '%-12s %s\n' "$1" "$2"
}

# lines_of FILE: how many lines that are neither empty nor comments
lines_of() {
    grep -c -v -e '^#' -e '^$' "$1" || true
}
