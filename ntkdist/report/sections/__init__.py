"""The sections of a report: each reads what a run holds and puts it into words and pictures."""
