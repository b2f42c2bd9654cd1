"""Multiagent finetuning of language models as batch jobs.

The method is that of *Multiagent Finetuning: Self Improvement with Diverse
Reasoning Chains* (ICLR 2025, arXiv:2501.05707).
"""

__version__ = "0.1.0"
