"""Which run an audit belongs to, what its source is, and which labels it lists."""
