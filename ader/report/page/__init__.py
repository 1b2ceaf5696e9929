"""A results tree as one page that needs neither network nor server: ``index.html``, with pictures beside or in it."""
