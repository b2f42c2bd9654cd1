"""Tests on a real Slurm cluster that they start themselves."""
