#!/bin/bash
#SBATCH --job-name=ntdh-sweep
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --requeue
set -u

source "$SLURM_SUBMIT_DIR/.venv/bin/activate"
export NTDH_DATA=${NTDH_DATA:-$SLURM_SUBMIT_DIR/data}
export NTDH_CACHE=${NTDH_CACHE:-$SLURM_SUBMIT_DIR/cache}
cd "$SLURM_SUBMIT_DIR"

exec srun ntdh-bench sweep table2 --jobs 1 --runs runs/sweep --results results
