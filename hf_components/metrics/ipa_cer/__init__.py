"""`evaluate` module: character error rate of IPA strings, as the children's speech challenge of DrivenData counts it.

CLOSED: imports only evaluate, datasets, jiwer and its siblings, because `evaluate.load` copies only this folder's
Python files to the user's cache.
"""
