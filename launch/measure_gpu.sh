#!/usr/bin/env bash
# Everything worth measuring on one GPU, in order of worth, as far as the time goes; the same command goes on later.
#   bash launch/measure_gpu.sh [--minutes=25] [--wheels=DIR] [--data=DIR] [--output=DIR] [--work=DIR] [--rehearse]
# No network: --wheels=DIR holds wheels of what the interpreter lacks, which are put into a folder of their own, and
# --data=DIR holds prepared CIFAR-10. PYTHON names the interpreter: default .venv/bin/python, or python3 where wheels
# are given. Records go to results/gpu-<card>/ (--output=DIR: to DIR/gpu-<card>/); see benchmarks/gpu/measure.py.
set -euo pipefail
cd -- "$(dirname "${BASH_SOURCE[0]}")/.."

die() {
  echo "${0##*/}: $*" >&2
  exit 1
}

wheels='' rest=()
for word in "$@"; do
  case $word in
    --wheels=*) wheels=${word#--wheels=} ;;
    *) rest+=("$word") ;;
  esac
done

python=${PYTHON:-.venv/bin/python}
if [[ $wheels ]]; then
  python=${PYTHON:-python3}
  compgen -G "$wheels/*.whl" >/dev/null || die "--wheels: $wheels holds no wheels"
fi
command -v "$python" >/dev/null || die "$python is missing; name an interpreter in PYTHON, or give --wheels=DIR"
if [[ $wheels ]]; then
  site=$PWD/.venv/wheels-$(printf '%s\n' "$wheels"/*.whl "$("$python" --version)" | cksum | cut -d ' ' -f 1)
  if [[ ! -e $site/.installed ]]; then
    mkdir -p "$site"
    "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$site" "$wheels"/*.whl ||
      die "pip could not install the wheels of $wheels"
    touch "$site/.installed"
  fi
  export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
fi
exec "$python" -m benchmarks.gpu.measure "${rest[@]}"
