"""Methods x tasks x models x seeds as one plan of runs that share whatever is the same."""
