#!/bin/bash

# Parameters
#SBATCH --account=lab-42
#SBATCH --array=0-1%2
#SBATCH --comment='five agents'
#SBATCH --constraint='h100&ib'
#SBATCH --cpus-per-task=8
#SBATCH --error='/projects/debates/five agents/it01/jobs/five-agents-xxxxxxxx.it01.debate.0001/%A_%a_0_log.err'
#SBATCH --exclude=node013
#SBATCH --gpus-per-node=h100:1
#SBATCH --job-name=five-agents-xxxxxxxx.it01.debate.0001
#SBATCH --mail-type=FAIL
#SBATCH --mem=102400M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='/projects/debates/five agents/it01/jobs/five-agents-xxxxxxxx.it01.debate.0001/%A_%a_0_log.out'
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=240

# setup
module load cuda/12.8
export NCCL_DEBUG=WARN
export OMP_NUM_THREADS=8
export MKL_NUM_THREADS=8
export OPENBLAS_NUM_THREADS=8
export TOKENIZERS_PARALLELISM=false
export SRUN_CPUS_PER_TASK=8

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/projects/debates/five agents/it01/jobs/five-agents-xxxxxxxx.it01.debate.0001/%A_%a_%t_log.out' --error '/projects/debates/five agents/it01/jobs/five-agents-xxxxxxxx.it01.debate.0001/%A_%a_%t_log.err' sh -c 'trap "" USR2 TERM; exec "$@"' sh /opt/hpcmaf/bin/python -u -m hpcmaf.launch.slurm.job '/projects/debates/five agents/it01/jobs/five-agents-xxxxxxxx.it01.debate.0001'
