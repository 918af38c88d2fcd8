"""Children: the code of learner and simulator processes, and of the server that forks them."""
