"""Where tiles are computed: in this process (``inline``) or on a Ray cluster (``ray``)."""
