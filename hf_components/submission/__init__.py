"""The program that a competition runs: `main.py`, copied to the root of `submission.zip` beside the folder `model`.

CLOSED: imports only numpy, soundfile, torch and transformers (4.57 or 5), because none of our code is installed there.
"""
