"""Looking inside of a run: what happened at each step, as numbers, as a file and as a page."""
