"""Where vLLM is importable its tests run as they are; elsewhere one test runs them in an environment with it."""

from __future__ import annotations

from importlib.util import find_spec

_WITH = [f"test_vllm_{part}.py" for part in ("engine", "folding", "kernels", "process", "steps")]
collect_ignore = ["test_in_an_environment.py"] if find_spec("vllm") else _WITH
