"""What results say beyond their tables: pure functions of finished runs, and of published numbers in the same form."""
