#!/usr/bin/env bash
# Create the virtual environment of the language half's peer: benchmarks/peers/setup_trl.sh makes benchmarks/.venv-trl.
# torch comes first, so that the pinned wheel decides and no other package pulls in a different one. 2 GB without CUDA.
# PYTHON: the interpreter (3.11 was tested). A finished environment is left as it is; delete its folder to make it anew.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=benchmarks/peers/venv.sh
source "$here/peers/venv.sh"
torch="torch==2.13.0"
packages="trl==1.16.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0"
make_venv "$here/.venv-trl" "$torch" "$packages"
