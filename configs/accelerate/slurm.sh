#!/bin/bash
# sbatch configs/accelerate/slurm.sh RECIPE OUTPUT [key.path=value ...]
# Two machines with eight GPUs. OUTPUT lies where all machines see it. Half an hour before its end, and when the
# scheduler takes the machines away, the run writes a checkpoint; with exit code 75 the job then queues itself again.
#SBATCH --job-name=mmssl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
recipe=$1 output=$2
shift 2

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)) OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK

# one process a task: torch reads these four
srun --kill-on-bad-exit=0 bash -c '
  export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
  exec python -m mmssl pretrain "$@"
' mmssl "$recipe" --output "$output" --resume auto train.time_limit=1410 "$@"
code=$?
if [ $code -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
