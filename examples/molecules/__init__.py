"""Small molecules: where the atoms of a formula lie, by a network that knows no direction."""
