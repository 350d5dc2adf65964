#!/bin/bash
#SBATCH --job-name=ntdh
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

source "$SLURM_SUBMIT_DIR/.venv/bin/activate"
export NTDH_DATA=${NTDH_DATA:-$SLURM_SUBMIT_DIR/data}
export NTDH_CACHE=${NTDH_CACHE:-$SLURM_SUBMIT_DIR/cache}
RUNS=$SLURM_SUBMIT_DIR/runs/$SLURM_JOB_ID

what=(--config semantickitti_dkd --trainer.devices 4 --trainer.strategy ddp)
last=$(ls -t "$RUNS"/*/checkpoints/last.ckpt 2>/dev/null | head -n 1)
if [ -n "$last" ]; then
    what=(--ckpt_path "$last")
fi

status=0
srun --kill-on-bad-exit=1 ntdh-bench fit "${what[@]}" --run_dir "$RUNS" || status=$?
if [ "$status" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
