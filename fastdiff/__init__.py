"""fastdiff."""
