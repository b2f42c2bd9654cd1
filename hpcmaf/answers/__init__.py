"""Answers: taking them out of text, telling whether two are the same, voting; cheap to import."""

from hpcmaf.answers.equal import equivalent
from hpcmaf.answers.extract import AnswerForm, closing_mark, extract, opened_thought, spoken
from hpcmaf.answers.vote import Vote, vote

__all__ = ["AnswerForm", "Vote", "closing_mark", "equivalent", "extract", "opened_thought", "spoken", "vote"]
