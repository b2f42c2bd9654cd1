"""Answers: taking them out of text, telling whether two are the same, voting.

Importing this package is cheap; sympy and Math-Verify are only ever loaded in a worker process, and only when the exact
levels of `equivalent` cannot decide.
"""

from hpcmaf.answers.equal import equivalent
from hpcmaf.answers.extract import AnswerForm, closing_mark, extract, opened_thought, spoken
from hpcmaf.answers.vote import Vote, vote

__all__ = ["AnswerForm", "Vote", "closing_mark", "equivalent", "extract", "opened_thought", "spoken", "vote"]
