"""Where vLLM is importable its tests run as they are; elsewhere one test runs them in an environment with it."""

from __future__ import annotations

from importlib.util import find_spec

_WITH = ["test_vllm_engine.py", "test_vllm_folding.py", "test_vllm_kernels.py", "test_vllm_process.py"]
collect_ignore = ["test_in_an_environment.py"] if find_spec("vllm") else _WITH
