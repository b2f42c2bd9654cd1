"""The table of methods: who is trained on what, and how inference runs.

A method is data. The pipeline reads these fields and never asks for a
method's name; a new method is a new row, and a new idea a new value of a
field, in the one place that reads it.
"""

from hpcmaf.methods.method import SINGLE, Method
from hpcmaf.methods.table import METHODS

__all__ = ["METHODS", "SINGLE", "Method"]
