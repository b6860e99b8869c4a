"""A language model of one's own as a task, and classifiers that start from it; what is one's own is how texts are read.

`knobs` what can be varied, `task` the language model, `start` what a classifier takes over from it.
"""
