"""Formats: tensors held by smaller ones, and how to get them."""
