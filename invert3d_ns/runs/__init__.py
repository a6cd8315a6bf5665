"""One run of anything: phases, trainer, checkpoints, progress, report."""
