#!/usr/bin/env bash
# Create the virtual environment of one peer, or of all: benchmarks/peers/setup.sh sb3|rllib|sample-factory|all
# torch comes first, so that the pinned wheel decides and no other package pulls in a different one.
# PYTHON: the interpreter (3.11 was tested). A finished environment is left as it is; delete its folder to make it anew.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
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
  local peer="$1" folder packages wanted
  packages="$(packages_of "$peer")"
  folder="$here/.venv-$peer"
  wanted="$torch $packages"
  if [[ -f "$folder/.pins" && "$(cat "$folder/.pins")" == "$wanted" ]]; then
    echo "$folder is ready."
    return
  fi
  echo "Creating $folder with $wanted ..."
  rm -rf "$folder"
  "${PYTHON:-python3.11}" -m venv "$folder"
  "$folder/bin/pip" install -q "$torch"
  # shellcheck disable=SC2086  # the pins are words
  "$folder/bin/pip" install -q "$torch" $packages
  echo "$wanted" > "$folder/.pins"
}

case "${1:-}" in
  all) for peer in sb3 rllib sample-factory; do install "$peer"; done ;;
  "") echo "usage: $0 sb3|rllib|sample-factory|all" >&2; exit 2 ;;
  *) install "$1" ;;
esac
