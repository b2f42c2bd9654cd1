"""A run: its plan, its directory, and who has done what."""
