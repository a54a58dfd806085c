"""The commands of the console script cluster-events."""
