"""What the essays in `notebooks/` use: each module serves one question that an essay asks."""
