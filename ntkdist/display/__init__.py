"""Numbers, tables and pictures as people read them; nothing here reads a run."""
