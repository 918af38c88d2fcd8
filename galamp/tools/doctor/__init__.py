"""`galamp doctor`: whether this machine can train, what slows it down, and what to do about it.

/proc, /sys, the terminal, the disk --checks--> Finding
a process that loads torch          --trial---> Finding      command: a line for each
"""
