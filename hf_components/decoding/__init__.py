"""Closed: opens sound files of any origin. `apart` does so in a process that may die, `reading` in this one.

Needs numpy, soundfile, soxr and av. It imports nothing else, so that its process starts in a fraction of a second.
"""
