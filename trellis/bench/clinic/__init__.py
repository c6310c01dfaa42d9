"""Apps with planted misconfigurations, and sound ones, for the doctor to judge."""
