"""fastdiff beside the samplers of each field's own library, at equal numbers of evaluations."""
