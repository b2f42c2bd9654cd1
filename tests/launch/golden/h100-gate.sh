#!/bin/bash

# Parameters
#SBATCH --account=lab-42
#SBATCH --comment='five agents'
#SBATCH --constraint='h100&ib'
#SBATCH --cpus-per-task=1
#SBATCH --dependency=afterany:JOB_0001:JOB_0002
#SBATCH --error=/dev/null
#SBATCH --exclude=node013
#SBATCH --job-name=five-agents-xxxxxxxx.it01.debate.gate.0006
#SBATCH --mail-type=FAIL
#SBATCH --mem=4096M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=30

# setup
again() {
  local code=$? job='' bad away=''
  trap '' TERM USR2
  if [ $code = 0 ] || [ -e '/projects/debates/five agents/stopped.json' ] || [ "${SLURM_RESTART_COUNT:-0}" -ge 30 ]; then exit $code; fi
  for _ in {1..90}; do
    job=$(scontrol show job -o "$SLURM_JOB_ID") && break
    away=yes; sleep 10
  done
  case $job in *" JobState=RUNNING "*) ;; *) exit $code ;; esac
  bad=$(echo "$job" | sed -n 's/.*ExcNodeList=\([^ (]*\).*/\1/p')
  scontrol requeue "$SLURM_JOB_ID" || exit $code
  [ -n "$away" ] || scontrol update jobid="$SLURM_JOB_ID" ExcNodeList="${bad:+$bad,}$SLURMD_NODENAME"
}
trap again EXIT
cd '/projects/debates/five agents/it01/jobs/five-agents-xxxxxxxx.it01.debate.gate.0006' || exit 1
exec >>"${SLURM_JOB_ID}_0_log.out" 2>>"${SLURM_JOB_ID}_0_log.err"
cd "$SLURM_SUBMIT_DIR"
module load cuda/12.8
export NCCL_DEBUG=WARN
export OMP_NUM_THREADS=1
export MKL_NUM_THREADS=1
export OPENBLAS_NUM_THREADS=1
export TOKENIZERS_PARALLELISM=false
export SRUN_CPUS_PER_TASK=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output '/projects/debates/five agents/it01/jobs/five-agents-xxxxxxxx.it01.debate.gate.0006/%j_%t_log.out' --error '/projects/debates/five agents/it01/jobs/five-agents-xxxxxxxx.it01.debate.gate.0006/%j_%t_log.err' sh -c 'trap "" USR2 TERM; exec "$@"' sh /opt/hpcmaf/bin/python -u -m hpcmaf.launch.slurm.job '/projects/debates/five agents/it01/jobs/five-agents-xxxxxxxx.it01.debate.gate.0006'
