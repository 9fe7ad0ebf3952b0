"""Pairs that are drawn instead of photographed: towns, streets, pasted buildings."""
