#!/usr/bin/env bash
# From a fresh machine to a robustness report: installs into .venv, then trains, attacks and reports on handwritten
# digits. Arguments go to the program (--config.seed=1); run again after an interruption, it continues.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

ensure_venv
exec .venv/bin/python -m clead_jax.main --config=configs/quickstart.py --workdir=runs/quickstart "$@"
