"""What runs in the child's process. It imports nothing of the host's side: a zygote must not hold it."""
