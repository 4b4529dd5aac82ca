"""`evaluate` module: how close resynthesised speech is to its original, and how many bits it needs.

CLOSED: imports only evaluate, datasets, numpy, praat-parselmouth, scipy, transformers and its siblings, because
`evaluate.load` copies only this folder's Python files to the user's cache.
"""
