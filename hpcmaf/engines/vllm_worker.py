"""Imported by vLLM in each of its tensor parallel workers, and nowhere else."""

from __future__ import annotations

from hpcmaf.engines.vllm_cause import leave_causes
from hpcmaf.engines.vllm_child import die_with_parent
from hpcmaf.engines.vllm_kernels import measured_kernels_in_use, use_compact_kernel

die_with_parent()
leave_causes()
if measured_kernels_in_use():
    use_compact_kernel()


class DiesWithParent:
    """Mixed into vLLM's worker class; importing it is what counts."""
