"""Files on shared file systems: published whole, locked, cached."""
