"""State that is no fixed-size tensor."""
