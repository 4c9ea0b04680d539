"""What models are trained on: the toy world with its exact answers, the documentation on this machine, streams."""
