# Sourced by the other scripts, never run: moves to the repository root and defines `ensure_venv`.
# shellcheck shell=bash

cd -- "${BASH_SOURCE[0]%/*}/.." >/dev/null || exit 1

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

# All that an installed environment depends on, in one line.
fingerprint() {
  { echo "$PWD" && .venv/bin/python --version && cat pyproject.toml constraints.txt; } 2>&1 | cksum
}

# Makes .venv with $1 (default python3), or says in one line what the machine lacks.
make_venv() {
  local python=$1 output
  command -v "$python" >/dev/null || die "$python is missing: sudo apt install python3 python3-venv"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    die "needs python 3.11 or newer, but $python is $("$python" --version 2>&1 | head -n 1)." \
      "Install a newer one (Debian 12 and later have it) and name it: PYTHON=/path/to/python3.11"
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    die "$python cannot make virtual environments: sudo apt install python3-venv"
  output=$("$python" -m venv --clear .venv 2>&1) || die "cannot make $PWD/.venv: $(tail -n 1 <<<"$output")"
}

# ensure_venv [EXTRA]: leaves .venv with the package and, if asked, one of its extras installed. Costs nothing when nothing
# has changed: a finished install leaves its fingerprint, and that of any extra also vouches for the bare package.
ensure_venv() {
  local extra=${1:-} log=.venv/install.log
  grep -qsxF "$(fingerprint)" .venv/.installed-"$extra"* && return

  # Without a working pip, .venv is absent, half made, or its interpreter is gone.
  .venv/bin/python -m pip --version &>/dev/null || make_venv "${PYTHON:-python3}"
  echo "Installing into $PWD/.venv: a few minutes, once (details in $log)"
  if ! .venv/bin/python -m pip install -c constraints.txt -e ".${extra:+[$extra]}" &>"$log"; then
    grep -q 'connection broken\|establish a new connection\|Failed to resolve' "$log" &&
      die "pip cannot reach its package index: connect to the network or name a mirror in PIP_INDEX_URL (details in $log)"
    die "pip could not install the package: $(grep -i error "$log" | tail -n 1) (details in $log)"
  fi
  fingerprint >.venv/.installed-"$extra"
}
