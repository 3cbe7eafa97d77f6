"""Evaluation: what a model gets right under attack, per example, and whether that number can be believed."""
