#!/usr/bin/env bash
# Create the virtual environment of the language half's peer: benchmarks/peers/setup_trl.sh makes benchmarks/.venv-trl.
# torch comes first, so that the pinned wheel decides and no other package pulls in a different one. 2 GB without CUDA.
# PYTHON: the interpreter (3.11 was tested). A finished environment is left as it is; delete its folder to make it anew.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
torch="torch==2.13.0"
packages="trl==1.16.0 transformers==5.23.0 accelerate==1.15.0 datasets==5.2.0"
folder="$here/.venv-trl"
wanted="$torch $packages"

if [[ -f "$folder/.pins" && "$(cat "$folder/.pins")" == "$wanted" ]]; then
  echo "$folder is ready."
  exit 0
fi
echo "Creating $folder with $wanted ..."
rm -rf "$folder"
"${PYTHON:-python3.11}" -m venv "$folder"
"$folder/bin/pip" install -q "$torch"
# shellcheck disable=SC2086  # the pins are words
"$folder/bin/pip" install -q "$torch" $packages
echo "$wanted" > "$folder/.pins"
