"""What one job runs: the only place where the rooms meet."""
