"""Plans: a solver on a schedule and a grid as a table of coefficients. NumPy, float64; no tensors."""
