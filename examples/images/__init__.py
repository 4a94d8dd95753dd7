"""Images made and edited: digits by class, changed into others, completed, and photographs in the style of another.

python -m examples.images [--quick] [--out FOLDER]

Flow matching (MNIST) and an EDM (photographs), networks that ship, beside diffusers' own schedulers at equal
evaluations.
"""
