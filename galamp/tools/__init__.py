"""Parent: commands around training: chaos, audit, topology, evaluation, bench."""
