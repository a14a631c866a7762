"""A page that shows a run while another process works on it, served on this machine alone."""
