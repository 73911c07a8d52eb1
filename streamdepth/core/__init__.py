"""Values, stage contracts, queues and errors. Imports no other folder of the package."""
