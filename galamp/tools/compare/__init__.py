"""`galamp compare`: what differs between runs, in settings, scores, speed, and how surely."""
