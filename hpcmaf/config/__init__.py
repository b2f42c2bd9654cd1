"""What a user configures: recipe, profile, Slurm's options."""
