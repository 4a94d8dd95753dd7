"""Examples of fastdiff in use."""
