"""Change event generation: objects of two dates become appeared, vanished or kept."""
