"""Training from a program or a notebook: `galamp.train` and `galamp.Run`.

    settings --words--> words of `galamp run`, checked here --process--> child: the supervisor
    Run.start, stop, wait <--lines, a byte-----------------------------> ProgramLink, in its loop
    Run.snapshots, scale  <--RUN/control, as galamp attach and scale---> ControlServer

The engine is the command line's, in a process of its own: a notebook needs no `__main__` guard, and
its threads and signals stay its own. The child ends with its parent. Nothing here loads torch.
"""
