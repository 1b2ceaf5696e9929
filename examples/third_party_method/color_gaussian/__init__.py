"""A method for ader in a package of its own."""
