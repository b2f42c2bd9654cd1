"""Running a plan on a Slurm cluster."""
