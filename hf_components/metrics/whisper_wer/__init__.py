"""`evaluate` module: word and character error rate, counted as in the Whisper paper.

CLOSED: imports only evaluate, datasets, numpy, openai-whisper, rapidfuzz (jiwer's aligner) and its siblings, because
`evaluate.load` copies only this folder's Python files to the user's cache.
"""
