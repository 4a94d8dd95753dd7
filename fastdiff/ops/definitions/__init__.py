"""What the public ops are: their arguments checked, and their schema for torch. `fastdiff.ops` has the functions."""
