"""Debates on disk: one HDF5 file per shard, merged, verified, read back."""
