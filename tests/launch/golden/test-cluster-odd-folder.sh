#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=1
#SBATCH --error='/projects/debates/it'"'"'s $HOME; "x" & ünï/it01/jobs/it-s-HOME-x-n-xxxxxxxx.it01.merge.0006/%j_0_log.err'
#SBATCH --job-name=it-s-HOME-x-n-xxxxxxxx.it01.merge.0006
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output='/projects/debates/it'"'"'s $HOME; "x" & ünï/it01/jobs/it-s-HOME-x-n-xxxxxxxx.it01.merge.0006/%j_0_log.out'
#SBATCH --partition=main
#SBATCH --requeue
#SBATCH --signal=USR2@30
#SBATCH --time=5

# setup
export OMP_NUM_THREADS=1
export MKL_NUM_THREADS=1
export OPENBLAS_NUM_THREADS=1
export TOKENIZERS_PARALLELISM=false
export SRUN_CPUS_PER_TASK=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/projects/debates/it'"'"'s $HOME; "x" & ünï/it01/jobs/it-s-HOME-x-n-xxxxxxxx.it01.merge.0006/%j_%t_log.out' --error '/projects/debates/it'"'"'s $HOME; "x" & ünï/it01/jobs/it-s-HOME-x-n-xxxxxxxx.it01.merge.0006/%j_%t_log.err' sh -c 'trap "" USR2 TERM; exec "$@"' sh /opt/python -u -m hpcmaf.launch.slurm.job '/projects/debates/it'"'"'s $HOME; "x" & ünï/it01/jobs/it-s-HOME-x-n-xxxxxxxx.it01.merge.0006'
