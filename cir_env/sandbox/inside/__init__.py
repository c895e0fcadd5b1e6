"""Code of the zygote and its children. It imports nothing from `host` and `http`, which a child must not contain."""
