"""Getting stages run: knows them by name only."""
