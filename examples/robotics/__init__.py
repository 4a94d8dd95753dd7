"""A diffusion policy that pushes a T to its goal in gym-pusht, by the number of evaluations."""
