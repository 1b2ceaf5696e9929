"""Tables of papers and of one's own, from the results tree and from published numbers."""
