#!/bin/bash
# A Ray cluster inside one Slurm allocation, and one run on it:  sbatch cluster/slurm.sh CONFIG [KEY=VALUE ...]
# NOT RUN HERE: needs Slurm. `bash -n` and the options of `ray start` are checked by tests/cluster/test_manifests.py.
#SBATCH --job-name=distrl
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

config=${1:?sbatch cluster/slurm.sh CONFIG [KEY=VALUE ...]}
shift
runs=${RUNS_DIR:-$SLURM_SUBMIT_DIR/runs} # on a disk that every node sees

# A token of this job's own, readable by its owner only.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.distrl-token-$SLURM_JOB_ID" OMP_NUM_THREADS=1
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH")
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_ip=$(srun --nodes=1 --ntasks=1 -w "${nodes[0]}" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000)) # several jobs may share a node
address=$head_ip:$port

srun --nodes=1 --ntasks=1 --overlap -w "${nodes[0]}" \
  ray start --head --block --node-ip-address="$head_ip" --port="$port" --num-cpus="$SLURM_CPUS_PER_TASK" \
  --dashboard-host=127.0.0.1 --disable-usage-stats &
sleep 20
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 --overlap -w "$node" \
    ray start --block --address="$address" --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats &
done
sleep 20

# Slurm's signal two minutes before the end becomes a checkpoint; the same line with --resume goes on from it.
srun --nodes=1 --ntasks=1 --overlap -w "${nodes[0]}" \
  distrl train "$config" "$@" --address "$address" --runs-dir "$runs" &
run=$!
trap 'kill -TERM "$run" 2>/dev/null || true' TERM
code=0
wait "$run" || code=$?
while kill -0 "$run" 2>/dev/null; do wait "$run" || code=$?; done
exit "$code"
