"""The command `nextbert-lite` and the learner's folder; nobody opens it to understand a model."""
