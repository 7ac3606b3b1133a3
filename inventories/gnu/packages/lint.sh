#!/bin/sh
# lint DIRECTORY: every shell script that is not formatted, and what is wrong in YAML files.
status=0
shfmt --list --indent 4 "${1:-.}" || status=1
yamllint --format parsable "${1:-.}" || status=1
exit $status
