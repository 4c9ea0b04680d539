"""What people do with a model: keep it, load a published one, embed, search, classify."""
