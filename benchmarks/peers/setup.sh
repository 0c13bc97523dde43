#!/usr/bin/env bash
# Create the virtual environment of one peer, or of all: benchmarks/peers/setup.sh sb3|rllib|sample-factory|all
# torch comes first, so that the pinned wheel decides and no other package pulls in a different one.
# PYTHON: the interpreter (3.11 was tested). A finished environment is left as it is; delete its folder to make it anew.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=benchmarks/peers/venv.sh
source "$here/peers/venv.sh"
torch="torch==2.13.0"

packages_of() {
  case "$1" in
    sb3) echo "stable-baselines3==2.9.2" ;;
    rllib) echo "ray[rllib]==2.60.0" ;;
    # Sample Factory 2.1.1 was written for these two.
    sample-factory) echo "sample-factory==2.1.1 gymnasium==0.29.1 numpy==1.26.4" ;;
    *)
      echo "unknown peer '$1'. Peers: sb3, rllib, sample-factory, all (single-file runs in the project's .venv)." >&2
      return 2
      ;;
  esac
}

install() {
  local packages
  packages="$(packages_of "$1")"
  make_venv "$here/.venv-$1" "$torch" "$packages"
}

case "${1:-}" in
  all) for peer in sb3 rllib sample-factory; do install "$peer"; done ;;
  "") echo "usage: $0 sb3|rllib|sample-factory|all" >&2; exit 2 ;;
  *) install "$1" ;;
esac
