#!/bin/bash

# Parameters
#SBATCH --account=lab-42
#SBATCH --comment='five agents'
#SBATCH --constraint='h100&ib'
#SBATCH --cpus-per-task=32
#SBATCH --error='/projects/debates/five agents/it02/jobs/five-agents-xxxxxxxx.it02.finetune.generator-0_4.0025/%j_0_log.err'
#SBATCH --exclude=node013
#SBATCH --gres=gpu:h100:4
#SBATCH --job-name=five-agents-xxxxxxxx.it02.finetune.generator-0_4.0025
#SBATCH --mail-type=FAIL
#SBATCH --mem=409600M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='/projects/debates/five agents/it02/jobs/five-agents-xxxxxxxx.it02.finetune.generator-0_4.0025/%j_0_log.out'
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
export SRUN_CPUS_PER_TASK=32

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/projects/debates/five agents/it02/jobs/five-agents-xxxxxxxx.it02.finetune.generator-0_4.0025/%j_%t_log.out' --error '/projects/debates/five agents/it02/jobs/five-agents-xxxxxxxx.it02.finetune.generator-0_4.0025/%j_%t_log.err' sh -c 'trap "" USR2 TERM; exec "$@"' sh /opt/hpcmaf/bin/python -u -m hpcmaf.launch.slurm.job '/projects/debates/five agents/it02/jobs/five-agents-xxxxxxxx.it02.finetune.generator-0_4.0025'
