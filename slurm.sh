#!/usr/bin/env bash
# A run of metaprune under Slurm: Ray on every node of the allocation, the driver on the first. In an environment that has
# metaprune on every node,
#   sbatch slurm.sh run quickstart --out /SHARED/runs/quickstart
# What stands below is asked for where the command line of sbatch says nothing else:
#   sbatch --nodes=8 --gres=gpu:8 --partition=NAME slurm.sh run ...
#SBATCH --job-name=metaprune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gres=gpu:4
#SBATCH --mem=64G
#SBATCH --time=12:00:00
# Two minutes before the time is over, and where the site says so before a preemption, Slurm sends SIGUSR1: the run stops in
# order, the job goes back into the queue, and goes on where it was when its turn comes again.
#SBATCH --requeue
#SBATCH --signal=USR1@120
#SBATCH --open-mode=append
set -u

# Modules, conda or `source VENV/bin/activate` go here, unless you submit from within the environment.

METAPRUNE_NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | xargs)
METAPRUNE_PORT=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
# Nobody else on these nodes can use the cluster.
RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export METAPRUNE_NODES METAPRUNE_PORT RAY_AUTH_MODE RAY_AUTH_TOKEN

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
  --cpus-per-task="${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}" --kill-on-bad-exit=0 \
  python -P -m orchestrator.slurm "$@"
status=$?
[ $status -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit $status
