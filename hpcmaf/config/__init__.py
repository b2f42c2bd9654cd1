"""What a user configures: recipe, profile, Slurm's options."""

DEFAULT_RECIPE = "arithmetic/micro"
DEFAULT_PROFILE = "local"
