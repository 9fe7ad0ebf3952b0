"""Small parts that methods share: losses, views, schedules."""
