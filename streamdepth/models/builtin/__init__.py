"""The model that comes with the package: ``model.json`` says which file it is and what its numbers mean."""
