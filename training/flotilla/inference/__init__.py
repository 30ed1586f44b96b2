"""Applies a model to all inputs of a folder: what they are, what the model takes and gives, and what is written."""
