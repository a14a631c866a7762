"""Networks of finite width and their training, in jax."""
