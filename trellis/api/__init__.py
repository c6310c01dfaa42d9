"""Orders over HTTP. Sits on the desk alone; runs no workers."""
