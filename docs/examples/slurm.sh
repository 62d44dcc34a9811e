#!/bin/bash
#SBATCH --job-name=diptych
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# Trains a recipe on all GPUs of the job:
#
#     sbatch slurm.sh eve/pretrain/own_small data.path=/data/prepared name=big
#
# One task a node: torchrun starts a process for each GPU there. Dataset and run directory must be on storage that all
# nodes see. Slurm sends SIGTERM 300 seconds before the time is over: the run finishes its step, writes a checkpoint and
# leaves with status 143, upon which the job is put back into the queue and goes on from there.

set -u
gpus=${SLURM_GPUS_ON_NODE:-8}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# Loader workers are processes of their own; each needs a core beside the one that trains.
export OMP_NUM_THREADS=$((${SLURM_CPUS_PER_TASK:-$gpus} / gpus))

srun torchrun \
  --nnodes="$SLURM_JOB_NUM_NODES" \
  --nproc-per-node="$gpus" \
  --max-restarts=3 \
  --rdzv-backend=c10d \
  --rdzv-id="$SLURM_JOB_ID" \
  --rdzv-endpoint="$first:29500" \
  -m diptych train "$@" &
training=$!

# Bash hears a signal only between commands, hence the waiting for a command in the background.
stopped=0
trap 'stopped=1; kill -TERM "$training" 2>/dev/null' TERM
while true; do
  wait "$training"
  status=$?
  kill -0 "$training" 2>/dev/null || break
done

if [ "$stopped" = 1 ] && [ -n "${SLURM_JOB_ID:-}" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
