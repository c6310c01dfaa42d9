"""The control room: a widget in Python (`widget.py`), its page in JavaScript (`page/`), and what feeds it."""
