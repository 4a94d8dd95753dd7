"""Everything fastdiff can be timed at on one machine, in one command: `python -m bench.gpu --out DIR`."""
