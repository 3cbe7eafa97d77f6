#!/usr/bin/env bash
# Runs the tests in .venv, two files at a time. Arguments go to pytest:
# `bash launch/test.sh -m slow`, `bash launch/test.sh tests/attacks`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

ensure_venv test
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
