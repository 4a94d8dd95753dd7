"""The numbers of `fastdiff.plan(None, ...)` for few evaluations, found in rounds of `bench.defaults_search`."""

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
}
# Of runs guided by a scale well above 1, found with a scale of 3.
GUIDED_TABLES = {
    4: Table(
        levels=(0.7628, 0.4513, 0.1128),
        shares=(
            (-0.897,),
            (0.1715, -0.4351),
            (-0.0484, 0.1466, -0.9717),
        ),
    ),
    5: Table(
        levels=(0.8284, 0.5956, 0.3211, 0.0807),
        shares=(
            (-1.0539,),
            (0.3198, -0.7944),
            (-0.0109, 0.058, -0.5905),
            (-0.0058, 0.3958, -1.363),
        ),
    ),
}
