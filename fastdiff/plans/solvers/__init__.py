"""One file a family; each solver is a pure function (schedule, points, prediction, options) -> rows of a plan."""
