#!/bin/bash
# sbatch examples/launch/slurm.sh, from the checkout, on a disk that all nodes share.
#
# Ray's head starts on the first node, the other nodes join it, and train.py runs on the first. A preempted job is
# queued again by Slurm and resumes from its newest checkpoint.
#SBATCH --job-name=code-rl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
set -euo pipefail

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | cut -d ' ' -f 1):6379

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port=6379 --block &
until srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" ray status > /dev/null 2>&1; do sleep 2; done
if (( SLURM_NNODES > 1 )); then
    others=$(IFS=,; echo "${nodes[*]:1}")
    srun --overlap --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --nodelist="$others" \
        ray start --address="$address" --block &
fi

# a background job and wait: bash passes SIGTERM on at once
RAY_ADDRESS=$address srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    python train.py qwen2.5-math-7b --resume auto --cluster.engines 12 --cluster.engine-gpus 1 --cluster.trainers 4 &
train=$!
trap 'kill -TERM $train' TERM
wait $train || true  # ended, or interrupted by the signal
wait $train
