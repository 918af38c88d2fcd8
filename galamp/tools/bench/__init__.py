"""`bin/bench`: speed and learning of galamp on this machine, alone and beside other programs.

Every system, galamp or peer, is a command that trains in processes of its own and appends rows to
`RUN/metrics.jsonl`; all are timed by the same code, from those rows, one system at a time:

    cli --System--> runs.measure --starts, weighs, ends--> processes.Program (a session of its own)
                        ^                                        |
                        +---- global_step, wall_s ---- RUN/metrics.jsonl

    runs.Measurement --> tables (one table at the end), a JSON row each

`bin/bench learning` lets runs end by themselves and reads from their rows what they have learned;
of several nodes, from the episodes of all.

A peer is an entry of `peers.PEERS` and a script in `peer_scripts/`; a sub-command is an entry of
`cli.COMMANDS`, a step of `bin/bench gpu` one of `gpu.command.STEPS`, a task of `bin/bench learning`
one of `learning_tasks.TASKS`.
"""
