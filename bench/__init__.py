"""`pytest bench/` prints; `python -m bench.report` and `python -m bench.quality` write bench/results/."""
