#!/usr/bin/env bash
# Create the virtual environments of the replay's peers: benchmarks/peers/setup_replay.sh sb3|tianshou|torchrl|cpprb|reverb|all
# One each, beside those of setup.sh. PYTHON: the interpreter (3.11 was tested). Finished environments are left as they are.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# shellcheck source=benchmarks/peers/venv.sh
source "$here/peers/venv.sh"

packages_of() {
  case "$1" in
    sb3) echo "torch==2.13.0 stable-baselines3==2.9.2" ;;
    tianshou) echo "torch==2.13.0 tianshou==2.0.1 joblib" ;;
    # The compiled priorities of TorchRL 0.12 to 0.14 fail to import with torch 2.13, so only its uniform buffer is measured.
    torchrl) echo "torch==2.13.0 torchrl==0.14.1" ;;
    cpprb) echo "setuptools cpprb==11.0.0" ;;
    # Reverb is built for one release of TensorFlow, and both for Linux; 1.7 GB.
    reverb) echo "dm-reverb[tensorflow]==0.14.0 numpy==1.26.4" ;;
    *)
      echo "unknown peer '$1'. Peers: sb3, tianshou, torchrl, cpprb, reverb, all." >&2
      return 2
      ;;
  esac
}

install() {
  local packages
  packages="$(packages_of "$1")"
  make_venv "$here/.venv-replay-$1" "$packages"
}

case "${1:-}" in
  all) for peer in sb3 tianshou torchrl cpprb reverb; do install "$peer"; done ;;
  "") echo "usage: $0 sb3|tianshou|torchrl|cpprb|reverb|all" >&2; exit 2 ;;
  *) install "$1" ;;
esac
