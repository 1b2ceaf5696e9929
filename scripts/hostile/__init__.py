"""Hostile inputs, replayed: each must be answered by a result, or by one line and exit status 2.

    python -m scripts.hostile [--only WORD] [--jobs 2] [--show] [--json FILE]

Every case is a command line, with what it finds on disk, in a process and a folder of its own. An answer is right if

- the status is 0 or 2, as the case says (some may be answered either way);
- status 2 comes with exactly one line on stderr, ``ader: error: ...``, which has the words that the case asks for;
- nothing that was printed has a traceback or a control character;
- it came within a minute, in less than 4 GiB of memory;
- and no temporary file is left.

The modules beside this one hold the cases, a kind each; ``replay`` runs and judges them, ``world`` is what all find.
"""
