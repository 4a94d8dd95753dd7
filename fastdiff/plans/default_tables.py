"""The numbers of `fastdiff.plan(None, ...)` for few evaluations, as `python -m bench.defaults_search` found them."""

from .tabulated import Table

TABLES = {
    4: Table(
        levels=(0.7455, 0.4258, 0.1176),
        shares=(
            (-1.1875,),
            (0.2743, -0.5584),
            (-0.0982, 0.2136, -1.0872),
        ),
    ),
    5: Table(
        levels=(0.7737, 0.5456, 0.3153, 0.0864),
        shares=(
            (-1.0975,),
            (0.3292, -0.8588),
            (-0.0017, 0.0789, -0.6334),
            (-0.0437, 0.468, -1.4001),
        ),
    ),
    6: Table(
        levels=(0.826, 0.6399, 0.4659, 0.3077, 0.0995),
        shares=(
            (-0.9857,),
            (0.0708, -0.8197),
            (0.129, 0.1357, -0.8885),
            (-0.0182, 0.1478, -0.6894),
            (-0.0727, 0.4611, -1.279),
        ),
    ),
}
