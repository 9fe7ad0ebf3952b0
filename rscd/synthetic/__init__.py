"""Synthetic pairs: rendered towns and streets, pasted buildings."""
