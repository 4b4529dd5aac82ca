"""The fault campaign of tests/campaign.py: kills, power cuts, damaged files and hostile input, each with its verdict.

children.py    a run in a forked process, which has imported everything already
moments.py     the events of a run: files opened, renamed, synced; optimizer steps
whole_runs.py  every recipe, tiny, without a fault: what a run with one is compared with
verdicts.py    same bits, refused by name, or anything else
kills.py       SIGKILL at a moment, then the same command again
power_cuts.py  what was not synced is lost, then the same command again
full_disks.py  a disk that is full or may not be written, then the same command on one that is not
stops.py       SIGTERM, Ctrl-C, and a clock that is set back
damage.py      a bit or the end of a file is lost, then the step that reads it runs
mutations.py   readers of the project on fuzzed input
forms.py       forms of input: a good file of each, and what reads it
spoiling.py    ways to spoil the bytes of a file
"""
