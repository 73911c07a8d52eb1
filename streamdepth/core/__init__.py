"""Values, contracts and tools that every other part builds on. Imports nothing of the other folders."""
