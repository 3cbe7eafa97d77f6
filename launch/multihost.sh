#!/usr/bin/env bash
# Several machines without a scheduler: start this on each of them, with the same arguments and a shared work directory.
#   COORDINATOR=node0:12345 NUM_PROCESSES=2 PROCESS_ID=0 bash launch/multihost.sh --config=configs/resnet50.py --workdir=/shared/run
# PROCESS_ID is 0 on the machine that COORDINATOR names, then 1, 2, ... PYTHON defaults to the .venv of this repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export JAX_COORDINATOR_ADDRESS=${COORDINATOR:?is the host:port of process 0, the same on every machine}
export JAX_NUM_PROCESSES=${NUM_PROCESSES:?is the number of machines}
export JAX_PROCESS_ID=${PROCESS_ID:?is the number of this machine, from 0}
exec "${PYTHON:-.venv/bin/python}" -m clead_jax.main --distributed "$@"
