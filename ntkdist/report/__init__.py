"""The report of a run: one page of what it found, and a page that follows it."""
