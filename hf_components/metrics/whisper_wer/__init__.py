"""`evaluate` module: word and character error rate as the Whisper paper counts them.

CLOSED: imports evaluate, datasets, numpy, openai-whisper, rapidfuzz (jiwer's aligner) and its own siblings only,
because `evaluate.load` copies just this folder's Python files to the user's cache.
"""
