"""Methods x tasks x models x seeds as one plan of runs that share whatever is the same."""

from hpcmaf.study.plan import Study, StudyRun, load_study

__all__ = ["Study", "StudyRun", "load_study"]
