"""What models are trained on: the toy world with its exact answers, and the documentation on this machine."""
