"""Functions that the essays in `notebooks/` use. Each module belongs to one question that an essay asks."""
