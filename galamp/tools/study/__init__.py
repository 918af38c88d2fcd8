"""The study: GALA's claims on runs of one's own, by rules that were written before the runs.

    BLOCK.toml --galamp sweep--> run folders --collecting--> results/BLOCK.jsonl --hypotheses,
    report--> decisions, tables, a picture

Runs in `bin/study`, in a checkout only.
"""
