"""`evaluate` module: how close resynthesised speech is to its original, and how few bits carry it.

CLOSED: imports evaluate, datasets, numpy, praat-parselmouth, scipy, transformers and its own siblings only, because
`evaluate.load` copies just this folder's Python files to the user's cache.
"""
