"""What happens during a run, as frozen dataclasses, and its subscribers: log, progress, metrics."""
