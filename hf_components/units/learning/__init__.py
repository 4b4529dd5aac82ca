"""Learn acoustic units on a corpus of any length, and write the units of its segments."""
