"""Children: what runs in learner and simulator processes, and in the server they are forked by."""
