"""What a competition runs: `main.py`, copied to the root of `submission.zip` beside the folder `model`.

CLOSED: imports numpy, soundfile, torch and transformers (4.57 or 5) only, because it runs where none of our code is
    installed.
"""
