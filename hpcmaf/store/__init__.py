"""Debates on disk: one HDF5 file per shard, merged, verified, read back."""

from hpcmaf.store.merge import merge
from hpcmaf.store.reader import Store
from hpcmaf.store.schema import StoreInfo
from hpcmaf.store.verify import verify
from hpcmaf.store.writer import write_store

__all__ = ["Store", "StoreInfo", "merge", "verify", "write_store"]
